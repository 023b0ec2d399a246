"""Your own videos with subtitle files: WebVTT or SRT, a cue is a sentence with its times.

    a.mp4  a.vtt        or  a.srt, or with a language: a.en.vtt

`--annotations` is the folder of the subtitles, by default that of the videos. Of several files for
one video the first by name counts. `a.en.vtt` belongs to a video `a.en` where there is one, else to
`a`; other parts of a name than codes of languages are never taken off. Markup, positions and notes
are dropped.

A line that stays on the screen, or scrolls up, counts once, at the time of the cue that shows it
first: automatic captions of YouTube repeat each line in up to four cues. The same text in the next
cue without a gap makes the first one longer.

The lines are divided as in the WebVTT standard (https://www.w3.org/TR/webvtt1/#file-parsing). The
demuxers of FFmpeg would not do: at the first cue that it does not know, that of WebVTT ends the
file, that of SRT appends times and text to the cue before, both without a word.
"""

import html
import math
import re
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from mova_jax.data.annotations.intake import Dataset, Intake
from mova_jax.data.annotations.items import InputError, is_unicode
from mova_jax.utils.text_files import LFS_POINTER, decode_text, is_lfs_pointer

_SUFFIXES = (".vtt", ".srt")
# ISO 639-1 with the codes of three letters for the same languages (ISO 639-2), and others that
# YouTube uses.
_LANGUAGES = frozenset(
    """
    aa ab ae af ak am an ar as av ay az ba be bg bi bm bn bo br bs ca ce ch co cr cs cu cv cy da de
    dv dz ee el en eo es et eu fa ff fi fj fo fr fy ga gd gl gn gu gv ha he hi ho hr ht hu hy hz ia
    id ie ig ii ik io is it iu ja jv ka kg ki kj kk kl km kn ko kr ks ku kv kw ky la lb lg li ln lo
    lt lu lv mg mh mi mk ml mn mr ms mt my na nb nd ne ng nl nn no nr nv ny oc oj om or os pa pi pl
    ps pt qu rm rn ro ru rw sa sc sd se sg sh si sk sl sm sn so sq sr ss st su sv sw ta te tg th ti
    tk tl tn to tr ts tt tw ty ug uk ur uz ve vi vo wa wo xh yi yo za zh zu
    aar abk afr aka alb amh ara arg arm asm ava ave aym aze bak bam baq bel ben bis bod bos bre bul
    bur cat ces cha che chi chu chv cor cos cre cym cze dan deu div dut dzo ell eng epo est eus ewe
    fao fas fij fin fra fre fry ful geo ger gla gle glg glv gre grn guj hat hau hbs heb her hin hmo
    hrv hun hye ibo ice ido iii iku ile ina ind ipk isl ita jav jpn kal kan kas kat kau kaz khm kik
    kin kir kom kon kor kua kur lao lat lav lim lin lit ltz lub lug mac mah mal mao mar may mkd mlg
    mlt mon mri msa mya nau nav nbl nde ndo nep nld nno nob nor nya oci oji ori orm oss pan per pli
    pol por pus que roh ron rum run rus sag san sin slk slo slv sme smo sna snd som sot spa sqi srd
    srp ssw sun swa swe tah tam tat tel tgk tgl tha tib tir ton tsn tso tuk tur twi uig ukr urd uzb
    ven vie vol wel wln wol xho yid yor zha zho zul
    iw in fil yue haw ceb
    """.split()
)
_LANGUAGE = re.compile(r"(.+)\.([a-z]{2,3})(?:[-_][a-z0-9]{2,8})*", re.IGNORECASE)
_TIME = r"(?:(\d{1,4}):)?(\d{1,2}):(\d{1,2})(?:[.,](\d{1,9}))?"
_TIMES = re.compile(rf"\s*{_TIME}\s*--?>\s*{_TIME}(?:\s.*)?")
_CLOCK = re.compile(r"\d\s*:\s*\d")
_MARKUP = re.compile(r"</?[a-zA-Z][^<>]*>|<\d[\d:.]*>|\{\\[^{}]*\}")
_NO_CUE = re.compile(r"(NOTE|STYLE|REGION)\s*(\s.*)?")  # blocks of WebVTT
_GAP = 0.1  # seconds: what the next cue shows so soon has stayed on the screen
_FLASH = 0.05  # seconds: YouTube's cue between two lines; nothing is said in it

Sentence = tuple[str, float, float]


class _Cue(NamedTuple):
    """A cue: seconds, and the lines of its text without markup."""

    start: float
    end: float
    lines: list[str]


def read(annotations: Path, intake: Intake) -> None:
    """Reads all subtitles of a folder; see `Dataset.read`."""
    if not annotations.is_dir():
        raise InputError(f"{annotations} is not a folder; --annotations has the subtitles.")
    files = sorted(
        path
        for path in annotations.rglob("*")
        if path.suffix.lower() in _SUFFIXES and path.is_file()
    )
    if not files:
        raise InputError(f"There are no subtitles ({', '.join(_SUFFIXES)}) in {annotations}.")
    for file in files:
        inside = file.relative_to(annotations).with_suffix("").as_posix()
        try:
            if not is_unicode(inside):
                raise ValueError("its name is not UTF-8: rename it")
            if is_lfs_pointer(file):
                raise ValueError(LFS_POINTER)
            sentences, notes = parse(file.read_bytes())
            if not sentences:
                raise ValueError("; ".join(["it has no cue with times and text", *notes]))
        except OSError as error:
            intake.skip(inside, f"{file.name}: it cannot be read ({error.strerror})")
        except ValueError as error:
            intake.skip(inside, f"{file.name}: {error}")
        else:
            name = _video_of(inside, intake)
            notes = [f"{file.name}: {note}" for note in notes]
            intake.add(name, sentences, files=(name, Path(name).name), warnings=notes)


def _video_of(name: str, intake: Intake) -> str:
    """The name of subtitles, without its language unless a video has the whole name."""
    found = _LANGUAGE.fullmatch(name)
    if not found or found[2].lower() not in _LANGUAGES or intake.has(name, Path(name).name):
        return name
    return found[1]


def parse(data: bytes) -> tuple[list[Sentence], list[str]]:
    """Reads a WebVTT or SRT file.

    Returns:
        Text, start and end in seconds of each sentence, in order; and warnings.
    """
    text, note = decode_text(data)
    lines = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
    cues, unknown = _cues(lines)
    notes = [note] if note else []
    if unknown:
        first = f"the first is line {unknown[0]}: {lines[unknown[0] - 1].strip()[:80]!r}"
        notes.append(f"lines that are not understood: {len(unknown)}, {first}")
    return _said(cues), notes


def _cues(lines: list[str]) -> tuple[list[_Cue], list[int]]:
    """The cues of a file, and the numbers of the lines that belong to none."""
    is_webvtt = lines[0].startswith("WEBVTT")
    cues: list[_Cue] = []
    # The lines of the cue, or since the last one, and whether they are known to be no text.
    text: list[str] = []
    loose: list[int] = []
    unknown: list[int] = []
    in_cue, ignored, numbered = False, is_webvtt, False
    for number, line in enumerate([*lines, ""], 1):
        if found := _TIMES.fullmatch(line):
            if in_cue:
                _drop_number(text, numbered)
            else:  # at most a name or a number is above the times
                numbered |= not cues and bool(loose) and lines[loose[-1] - 1].strip().isdigit()
                unknown += loose[:-1]
            text = []
            times = found.groups()
            cues.append(_Cue(_seconds(times[:4]), _seconds(times[4:]), text))
            in_cue, ignored, loose = True, False, []
        elif "->" in line and _CLOCK.search(line):  # times that are not understood
            if in_cue:
                _drop_number(text, numbered)
            unknown += [*loose[:-1], number]
            in_cue, ignored, loose = False, True, []
        elif line or not is_webvtt:
            if in_cue:
                text.append(line)
            elif is_webvtt and not loose and _NO_CUE.fullmatch(line):
                ignored = True
            elif line.strip() and not ignored:
                loose.append(number)
        else:  # an empty line ends a block of WebVTT
            unknown += loose
            in_cue, ignored, loose = False, False, []
    cleaned = [_Cue(cue.start, cue.end, _clean(cue.lines)) for cue in cues]
    return cleaned, sorted(unknown + loose)


def _drop_number(text: list[str], numbered: bool) -> None:
    """Takes the number of the next cue from the end of a text."""
    while text and not text[-1].strip():
        text.pop()
    apart = len(text) > 1 and not text[-2].strip()
    if text and text[-1].strip().isdigit() and (numbered or apart):
        text.pop()


def _clean(lines: Iterable[str]) -> list[str]:
    plain = (html.unescape(_MARKUP.sub("", line)).strip() for line in lines)
    return [line for line in plain if line]


def _seconds(parts: Iterable[str | None]) -> float:
    hours, minutes, whole, fraction = (part or "0" for part in parts)
    return float(f"{3600 * int(hours) + 60 * int(minutes) + int(whole)}.{fraction}")


def _said(cues: Iterable[_Cue]) -> list[Sentence]:
    """What cues say that was not on the screen before."""
    sentences: list[Sentence] = []
    shown, until = [], -math.inf
    for start, end, lines in cues:
        shown = shown if start <= until + _GAP else []
        fits = min(len(shown), len(lines))
        kept = next(n for n in range(fits, -1, -1) if shown[len(shown) - n :] == lines[:n])
        if new := lines[kept:]:
            sentences.append((" ".join(new), start, end))
        elif lines and lines == shown and end - start > _FLASH:
            text, first, last = sentences[-1]
            sentences[-1] = text, first, max(last, end)
        shown, until = lines, end
    return sentences


DATASET = Dataset(
    name="subtitles",
    read=read,
    files="a .vtt or .srt for each video, of the same name",
)
