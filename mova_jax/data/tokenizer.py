"""Captions to token ids: CLIP's byte-level BPE, with a vocabulary learned here or pretrained.

In:  captions (to learn a vocabulary), or a folder with a CLIP tokenizer.
Out: a folder that transformers' `CLIPTokenizer.from_pretrained` loads without a network, and
     `Tokenizer`, which turns a text into `<|startoftext|> ... <|endoftext|>`:

    train_tokenizer(texts, vocab_size=4096, folder="shards/tokenizer")
    tokenizer = Tokenizer("shards/tokenizer", max_tokens=248)
    ids = tokenizer.encode("A cat sits. It leaves.").ids     # int32[l], l <= 248
    tokens, token_mask = pad_tokens([ids], buckets=(64, 248), pad_id=tokenizer.pad_id)

Texts are cleaned as CLIP did (`sentences.clean_text`). One over `max_tokens` is cut at the end of a
sentence where that keeps half of the tokens at least, and `encode` says so.
"""

import json
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import numpy as np

from mova_jax.data.sentences import clean_text, fill_room, merge_parts, split_sentences
from mova_jax.utils.atomic import write_bytes

# Otherwise transformers advises, at every import, to install PyTorch, which no tokenizer needs.
os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")

MAX_TOKENS = 248
PART_TOKENS = 77  # CLIP's context: a part is a short text, and short texts are cheap to encode
MIN_VOCAB = 514  # 256 bytes, 256 bytes that end a word, start and end of text

_BOS, _EOT = "<|startoftext|>", "<|endoftext|>"
_WORD_END = "</w>"
_FILES = ("tokenizer_config.json", "tokenizer.json")  # the last one holds all, so it comes last


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
            ValueError: when its vocabulary is not CLIP's, or max_tokens is below 3.
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
        try:
            loaded = _from_folder(folder)
        except Exception as error:  # JSON's, KeyErrors, and the bare ones of the library's Rust
            raise ValueError(f"{folder} holds no CLIP tokenizer ({error!r}).") from error
        # The Rust object: transformers' own call costs several times the encoding.
        self._bpe = loaded.backend_tokenizer
        self._bpe.no_truncation()
        self._bpe.no_padding()
        self.vocab_size: int = self._bpe.get_vocab_size()
        ends = loaded.bos_token, loaded.eos_token
        if self.vocab_size < MIN_VOCAB or ends != (_BOS, _EOT):
            raise ValueError(
                f"{folder} holds {self.vocab_size} tokens from {ends[0]!r} to {ends[1]!r}; a CLIP "
                f"tokenizer has at least {MIN_VOCAB} (all bytes, start and end) and goes from "
                f"{_BOS!r} to {_EOT!r}."
            )
        tokens = (_BOS, _EOT, loaded.pad_token)
        self.bos_id, self.eot_id, self.pad_id = map(self._bpe.token_to_id, tokens)

    def encode(self, text: str) -> Encoded:
        """Encodes a text.

        Returns:
            ids int32[l], l <= max_tokens. An overlong text keeps as many whole sentences as fit;
            where they fill less than half, the first tokens of the next one too.
        """
        return self._encode(text, self.max_tokens)

    def _encode(self, text: str, most: int) -> Encoded:
        text = clean_text(text)
        ids = self._bpe.encode(text.lower()).ids
        if len(ids) <= most:
            return Encoded(np.asarray(ids, np.int32), False)
        # No token crosses white space, so the tokens of a text are those of its sentences.
        sentences = (
            self._bpe.encode(sentence.lower(), add_special_tokens=False).ids
            for sentence in split_sentences(text)
        )
        cut = fill_room(sentences, most - 2)
        return Encoded(np.asarray([self.bos_id, *cut, self.eot_id], np.int32), True)

    def encode_parts(self, sentences: Iterable[str], most: int) -> tuple[np.ndarray, ...]:
        """Ids of the parts of a caption, each encoded as a text of its own.

        Args:
            sentences: of the caption, in order.
            most: number of parts, `config.data.parts`; more sentences are merged
                (`sentences.merge_parts`). With 0 there are no parts.

        Returns:
            i32[t] of each part, t <= max_tokens and PART_TOKENS, from start to end of text. Longer
            ones are cut as captions are. Sentences that are all blank are one empty part, so that
            every caption has a part.
        """
        if not most:
            return ()
        length = min(self.max_tokens, PART_TOKENS)
        parts = merge_parts(map(clean_text, sentences), most) or [""]
        return tuple(self._encode(part, length).ids for part in parts)


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


def pad_parts(
    captions: Sequence[Sequence[np.ndarray]],
    counts: Sequence[int],
    buckets: Sequence[int],
    pad_id: int,
) -> tuple[np.ndarray, np.ndarray]:
    """Token ids of the parts of several captions as one array, as small as the buckets allow.

    Args:
        captions: ids of each part of each caption, i32[at most the largest bucket].
        counts: ascending numbers of parts to pad to; a caption may have as many as the last.
        buckets: ascending lengths of a part to pad to.
        pad_id: the id of the padding.

    Returns:
        part_tokens i32[b p t] and part_token_mask bool[b p t], all False for a padded part.
    """
    p = bucket_length(max(map(len, captions), default=0), counts)
    none = np.empty(0, np.int32)
    padded = [ids for parts in captions for ids in [*parts, *[none] * (p - len(parts))]]
    tokens, mask = pad_tokens(padded, buckets, pad_id)
    return tokens.reshape(len(captions), p, -1), mask.reshape(len(captions), p, -1)


def is_tokenizer(folder: str | os.PathLike) -> bool:
    """Whether a folder has the files of a tokenizer."""
    folder = Path(folder)
    files = [{"tokenizer.json"}, {"vocab.json", "merges.txt"}]
    return any(all((folder / file).is_file() for file in group) for group in files)


def _from_folder(folder: Path):
    """transformers' tokenizer of a folder; imported here, for that takes most of a second."""
    from transformers import CLIPTokenizer

    return CLIPTokenizer.from_pretrained(folder, local_files_only=True)


def copy_tokenizer(source: str | os.PathLike, folder: str | os.PathLike) -> None:
    """Copies a tokenizer of any form to another folder, as tokenizer.json.

    Raises:
        FileNotFoundError, ValueError: when the source is not a CLIP tokenizer.
    """
    Tokenizer(source)
    source, folder = Path(source), Path(folder)
    if all((source / name).is_file() for name in _FILES):
        _copy_files(source, folder)
    else:
        _save(_from_folder(source), folder)


def train_tokenizer(texts: Iterable[str], vocab_size: int, folder: str | os.PathLike) -> None:
    """Learns byte-level BPE from texts and saves it; the same texts give the same files.

    The vocabulary has CLIP's order: bytes, bytes that end a word, merges in the order of their
    learning, start of text, end of text (the highest id). Few texts give fewer tokens.

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
    letters = alphabet + [letter + _WORD_END for letter in alphabet]
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size - 2,
        min_frequency=2,
        initial_alphabet=alphabet,
        # Fixed ids for these too: pairs that are equally frequent are ordered by id.
        special_tokens=letters[len(alphabet) :],
        end_of_word_suffix=_WORD_END,
        show_progress=False,
    )
    blank = CLIPTokenizer(vocab={_BOS: 0, _EOT: 1}, merges=[]).backend_tokenizer
    blank.train_from_iterator((clean_text(text).lower() for text in texts), trainer)
    merges = [tuple(pair) for pair in json.loads(blank.to_str())["model"]["merges"]]
    tokens = dict.fromkeys(letters + ["".join(pair) for pair in merges])
    vocab = {token: index for index, token in enumerate([*tokens, _BOS, _EOT])}
    _save(CLIPTokenizer(vocab=vocab, merges=merges), Path(folder))


def _save(tokenizer, folder: Path) -> None:
    with TemporaryDirectory() as aside:
        tokenizer.save_pretrained(aside)
        _copy_files(Path(aside), folder)


def _copy_files(source: Path, folder: Path) -> None:
    for name in _FILES:
        write_bytes(folder / name, (source / name).read_bytes())
