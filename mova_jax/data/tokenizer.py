"""Captions to token ids: byte-level BPE of CLIP's form, learned here or pretrained.

In:  captions (to learn a vocabulary), or a folder with a CLIP tokenizer.
Out: a folder that transformers' `CLIPTokenizer.from_pretrained` loads without a network, and
     `Tokenizer`, which turns a text into `<|startoftext|> ... <|endoftext|>`:

    train_tokenizer(texts, vocab_size=4096, folder="shards/tokenizer")
    tokenizer = Tokenizer("shards/tokenizer", max_tokens=248)
    tokenizer.encode("A cat sits. It leaves.").ids     # int32[l], l <= 248

Texts over `max_tokens` are cut at the end of a sentence, and say so.
"""

import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

# Otherwise transformers advises, at every import, to install PyTorch, which no tokenizer needs.
os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")

MAX_TOKENS = 248
MIN_VOCAB = 514  # 256 bytes, 256 bytes that end a word, start and end of text

_BOS, _EOT = "<|startoftext|>", "<|endoftext|>"
# Of a folder as `_save` leaves it, without its vocabulary. tokenizer.json is then the whole
# tokenizer, and is read without importing transformers, which takes half a second. A test tells
# when transformers writes another form.
_FORM = "f129d0b41a4cc1f95bf54407eaefde4dbebea8a3a846d3680d0c50a26c4f8434"
_SENTENCE_END = re.compile(r"(?<=[.!?])\s+")


class Encoded(NamedTuple):
    """A text as ids, int32[l] with start and end of text, and whether it was cut."""

    ids: np.ndarray
    truncated: bool


class Tokenizer:
    """A CLIP tokenizer that cuts at sentence ends; can be pickled."""

    def __init__(self, folder: str | os.PathLike, max_tokens: int = MAX_TOKENS):
        """Loads the tokenizer of a folder, offline.

        Args:
            folder: with tokenizer.json, or vocab.json and merges.txt.
            max_tokens: the longest sequence, start and end of text included.

        Raises:
            FileNotFoundError: when there is no tokenizer in the folder.
            ValueError: when it is not of CLIP's form, or max_tokens is below 3.
        """
        folder = Path(folder)
        if not is_tokenizer(folder):
            raise FileNotFoundError(
                f"There is no tokenizer in {folder} (tokenizer.json, or vocab.json with "
                "merges.txt); give a folder made by python -m mova_jax.prepare or a CLIP one."
            )
        if max_tokens < 3:
            raise ValueError(f"max_tokens must be at least 3 (start, a token, end): {max_tokens}")
        self.folder = folder
        self.max_tokens = max_tokens
        # The Rust object: transformers' own call costs several times the encoding.
        self._bpe, (bos, eot, pad) = _as_saved(folder) or _by_transformers(folder)
        self.vocab_size: int = self._bpe.get_vocab_size()
        if self.vocab_size < MIN_VOCAB or (bos, eot) != (_BOS, _EOT):
            raise ValueError(
                f"{folder} holds {self.vocab_size} tokens from {bos!r} to {eot!r}; a CLIP "
                f"tokenizer has at least {MIN_VOCAB} and goes from {_BOS!r} to {_EOT!r}."
            )
        self.bos_id, self.eot_id, self.pad_id = map(self._bpe.token_to_id, (bos, eot, pad))
        self._bpe.no_truncation()
        self._bpe.no_padding()

    def encode(self, text: str) -> Encoded:
        """Encodes a text.

        Returns:
            ids int32[l], l <= max_tokens. An overlong text keeps as many whole sentences as fit;
            when not even the first fits, its first tokens.
        """
        ids = self._bpe.encode(text).ids
        if len(ids) <= self.max_tokens:
            return Encoded(np.asarray(ids, np.int32), False)
        room = self.max_tokens - 2
        kept: list[int] = []
        # No token reaches over white space, so the tokens of a text are those of its sentences.
        for sentence in _SENTENCE_END.split(text):
            more = self._bpe.encode(sentence, add_special_tokens=False).ids
            if len(kept) + len(more) > room:
                kept = kept or more[:room]
                break
            kept += more
        return Encoded(np.asarray([self.bos_id, *kept, self.eot_id], np.int32), True)


def bucket_length(longest: int, buckets: Sequence[int]) -> int:
    """The smallest of the ascending `buckets` that holds `longest` tokens.

    Raises:
        ValueError: no bucket is long enough; the tokenizer truncates at another length than the
            largest bucket.
    """
    for bucket in buckets:
        if longest <= bucket:
            return bucket
    raise ValueError(
        f"a caption of {longest} tokens fits none of the token buckets {tuple(buckets)}: make the "
        "tokenizer with max_tokens equal to the largest bucket"
    )


def pad_tokens(
    sequences: Sequence[np.ndarray], buckets: Sequence[int], pad_id: int
) -> tuple[np.ndarray, np.ndarray]:
    """Token ids of several texts as one array, as short as the buckets allow.

    Args:
        sequences: ids of each text, i32[at most the largest bucket].
        buckets: ascending lengths; only a few, for each is a shape to compile.
        pad_id: the id of the padding.

    Returns:
        tokens i32[b l] and token_mask bool[b l], True where a token is.
    """
    lengths = np.array([len(ids) for ids in sequences])
    length = bucket_length(int(lengths.max(initial=0)), buckets)
    token_mask = np.arange(length) < lengths[:, None]
    tokens = np.full(token_mask.shape, pad_id, np.int32)
    for row, ids in zip(tokens, sequences, strict=True):
        row[: len(ids)] = ids
    return tokens, token_mask


def is_tokenizer(folder: str | os.PathLike) -> bool:
    """Whether a folder has the files of a tokenizer."""
    folder = Path(folder)
    files = [{"tokenizer.json"}, {"vocab.json", "merges.txt"}]
    return any(all((folder / file).is_file() for file in group) for group in files)


def _by_transformers(folder: Path):
    """The tokenizer of a folder of any form, and its tokens for start, end and padding."""
    from transformers import CLIPTokenizer

    loaded = CLIPTokenizer.from_pretrained(folder, local_files_only=True)
    return loaded.backend_tokenizer, (loaded.bos_token, loaded.eos_token, loaded.pad_token)


def _as_saved(folder: Path):
    """What `_by_transformers` gives of a folder that `_save` wrote, None for another one."""
    import tokenizers

    names = {"tokenizer.json", "tokenizer_config.json"}
    if {path.name for path in folder.iterdir()} != names:
        return None
    text = (folder / "tokenizer.json").read_text(encoding="utf-8")
    settings = (folder / "tokenizer_config.json").read_text(encoding="utf-8")
    try:
        if _form_of(json.loads(text), json.loads(settings)) != _FORM:
            return None
    except (ValueError, KeyError, TypeError, AttributeError):
        return None  # transformers says what is wrong with it
    return tokenizers.Tokenizer.from_str(text), (_BOS, _EOT, _EOT)


def _form_of(tokenizer: dict, settings: dict) -> str:
    """A hash of all that two tokenizers can differ in but their vocabulary.

    Args:
        tokenizer: what tokenizer.json holds.
        settings: what tokenizer_config.json holds.
    """
    vocab = tokenizer["model"].get("vocab", {})
    rest = {k: v for k, v in tokenizer["model"].items() if k not in ("vocab", "merges")}
    text = json.dumps([tokenizer | {"model": rest}, settings], sort_keys=True)
    # Numbers of start and end follow from the vocabulary.
    for token in (_BOS, _EOT):
        text = text.replace(f'"id": {vocab.get(token)}', f'"id": "{token}"')
        text = text.replace(f'"{token}", {vocab.get(token)}]', f'"{token}"]')
    return hashlib.sha256(text.encode()).hexdigest()


def copy_tokenizer(source: str | os.PathLike, folder: str | os.PathLike) -> None:
    """Copies a tokenizer to another folder, in the one form that is read fastest.

    Raises:
        FileNotFoundError, ValueError: when the source is not a CLIP tokenizer.
    """
    Tokenizer(source)
    if _as_saved(Path(source)):
        _publish(lambda partial: shutil.copytree(source, partial), Path(folder))
        return
    from transformers import CLIPTokenizer

    _save(CLIPTokenizer.from_pretrained(source, local_files_only=True), Path(folder))


def train_tokenizer(texts: Iterable[str], vocab_size: int, folder: str | os.PathLike) -> None:
    """Learns byte-level BPE from texts and saves it; the same texts give the same files.

    The vocabulary is laid out as CLIP's: bytes, bytes that end a word, merges in the order of
    their learning, start of text, end of text (the highest id). Few texts give fewer tokens.

    Args:
        texts: captions.
        vocab_size: tokens at most, 514 at least.
        folder: made when absent; its tokenizer files are replaced.

    Raises:
        ValueError: when vocab_size is too small.
    """
    from tokenizers import pre_tokenizers, trainers
    from transformers import CLIPTokenizer

    if vocab_size < MIN_VOCAB:
        raise ValueError(f"vocab_size must be at least {MIN_VOCAB} (all bytes), got {vocab_size}")
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    letters = alphabet + [letter + "</w>" for letter in alphabet]
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size - 2,
        min_frequency=2,
        initial_alphabet=alphabet,
        # Fixed ids for these too: pairs that are equally frequent are ordered by id.
        special_tokens=letters[len(alphabet) :],
        end_of_word_suffix="</w>",
        show_progress=False,
    )
    blank = CLIPTokenizer(vocab={_BOS: 0, _EOT: 1}, merges=[]).backend_tokenizer
    blank.train_from_iterator(texts, trainer)
    merges = [tuple(pair) for pair in json.loads(blank.to_str())["model"]["merges"]]
    tokens = dict.fromkeys(letters + ["".join(pair) for pair in merges])
    vocab = {token: index for index, token in enumerate([*tokens, _BOS, _EOT])}
    _save(CLIPTokenizer(vocab=vocab, merges=merges), Path(folder))


def _save(tokenizer, folder: Path) -> None:
    _publish(tokenizer.save_pretrained, folder)


def _publish(write: Callable[[Path], Any], folder: Path) -> None:
    """Writes aside, then moves file by file; tokenizer.json, which holds it all, comes last."""
    partial = folder.with_name(folder.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    folder.mkdir(parents=True, exist_ok=True)
    try:
        write(partial)
        for file in sorted(partial.iterdir(), key=lambda path: path.name == "tokenizer.json"):
            file.replace(folder / file.name)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
