"""Cleans captions as CLIP did, finds where sentences end, merges neighbours into a few parts.

clean_text("It&#39;s a “red” cat&nbsp;!")
# It's a "red" cat !
split_sentences('Mr. Hill waits... and sits. "Go!" he says.')
# ["Mr. Hill waits... and sits.", '"Go!" he says.']
merge_parts(["A dog runs.", "It stops.", "Then a long time passes."], most=2)
# ["A dog runs. It stops.", "Then a long time passes."]
"""

import html
import re
from collections.abc import Iterable, Sequence

import numpy as np

_CLOSING = "\"'”’»)]"
_END = re.compile(rf"[.!?…][{re.escape(_CLOSING)}]*\s+")
_BEFORE_A_NAME = {"mr", "mrs", "ms", "dr", "prof", "st", "vs"}
_SHORT_FORM = re.compile(r"etc|([a-z]\.)+[a-z]")  # e.g., i.e., p.m., without the last point
_CONTROL = re.compile(r"<\|(startoftext|endoftext)\|>", re.IGNORECASE)


def clean_text(text: str) -> str:
    """A text as OpenAI's CLIP and open_clip clean it before they tokenise: mended and unescaped.

    `ftfy.fix_text` mends wrongly decoded letters and straightens curly quotes, HTML is unescaped
    twice, and white space becomes single spaces. In one thing it differs: the names of the tokens
    that start and end a text are taken apart, because a caption that contains them says so and does
    not end there. Lower case comes later, since where sentences end depends on capitals.
    """
    # Most captions: nothing of the following changes them, and it takes most of a millisecond.
    if not (text.isascii() and text.isprintable() and "&" not in text):
        try:  # here, because exports run where it may be missing, and few captions need it
            import ftfy
        except ImportError as error:
            raise ImportError("captions beyond plain ASCII need it: pip install ftfy") from error
        text = html.unescape(html.unescape(ftfy.fix_text(text)))
    if "<|" in text:
        text = _CONTROL.sub(r"<| \1 |>", text)
    return " ".join(text.split())


def split_sentences(text: str) -> list[str]:
    """The sentences of a text, cleaned (`clean_text`); none of a blank text.

    A sentence ends at white space after `.`, `!`, `?` or `…` and the quotes or brackets that close
    there. It does not end after a title (Mr.) or before its first letter ("1. A dog runs."); and
    after dots (...), a short form (e.g.) or a closing quote only where no lower-case letter
    follows. Captions are often written in lower case, so a single point ends a sentence always.
    """
    text = clean_text(text)
    sentences, start = [], 0
    for end in _END.finditer(text):
        sentence = text[start : end.end()].strip()
        if not _goes_on(sentence, text[end.end() : end.end() + 1]):
            sentences.append(sentence)
            start = end.end()
    rest = text[start:].strip()
    return [*sentences, rest] if rest else sentences


def _goes_on(sentence: str, following: str) -> bool:
    """Whether a sentence goes on after what looks like its end, before the letter `following`."""
    if not any(map(str.isalpha, sentence)):
        return True
    bare = sentence.rstrip(_CLOSING)
    word = bare.split()[-1].strip(".([\"'“‘«").lower()
    if word in _BEFORE_A_NAME and bare.endswith("."):
        return True
    soft = bare != sentence or bare.endswith(("..", "…")) or _SHORT_FORM.fullmatch(word)
    return bool(soft) and following.islower()


def fill_room(sentences: Iterable[Sequence[int]], room: int) -> list[int]:
    """As many whole sentences of a text that is too long as fit.

    Where they fill less than half, the first tokens of the next one too.

    Args:
        sentences: token ids of each, without start and end of text.
        room: the number of tokens that fit.
    """
    kept: list[int] = []
    for ids in sentences:
        if len(kept) + len(ids) > room:
            return kept if 2 * len(kept) >= room else [*kept, *ids][:room]
        kept += ids
    return kept


def merge_parts(sentences: Iterable[str], most: int) -> list[str]:
    """The parts of a caption: its sentences, or neighbours joined by a space where they are many.

    The shortest two neighbours are merged until few enough are left, so that parts are about
    equally long. The same sentences always give the same parts.

    Args:
        sentences: in order; blank ones are left out.
        most: number of parts, at least 1.

    Returns:
        At most `most` texts, whose words together are those of the sentences.
    """
    parts = [sentence.strip() for sentence in sentences if sentence.strip()]
    lengths = np.array([len(part) for part in parts])  # letters, which grow with tokens
    while len(parts) > most:
        at = int(np.argmin(lengths[:-1] + lengths[1:]))
        parts[at : at + 2] = [f"{parts[at]} {parts[at + 1]}"]
        lengths[at + 1] += lengths[at] + 1
        lengths = np.delete(lengths, at)
    return parts
