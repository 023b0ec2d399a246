"""Captions to token ids: CLIP's byte-level BPE, with a vocabulary learned here or pretrained.

In:  captions (to learn a vocabulary), or a folder with a CLIP tokenizer.
Out: a folder that transformers' `CLIPTokenizer.from_pretrained` loads without a network, and
     `Tokenizer`, which turns a text into `<|startoftext|> ... <|endoftext|>`:

    train_tokenizer(texts, vocab_size=4096, folder="shards/tokenizer")
    tokenizer = Tokenizer("shards/tokenizer", max_tokens=248)
    ids = tokenizer.encode("A cat sits. It leaves.").ids     # int32[l], l <= 248
    tokens, token_mask = pad_tokens([ids], buckets=(64, 248), pad_id=tokenizer.pad_id)

A text over `max_tokens` is cut at the end of a sentence, and `encode` says so.
"""

import json
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import tokenizers
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors, trainers

from mova_jax.utils.atomic import write_text

MAX_TOKENS = 248
MIN_VOCAB = 514  # 256 bytes, 256 bytes that end a word, start and end of text

_BOS, _EOT = "<|startoftext|>", "<|endoftext|>"
_WORD_END = "</w>"
_SENTENCE_END = re.compile(r"(?<=[.!?])\s+")
_SPLIT = rf"{re.escape(_BOS)}|{re.escape(_EOT)}" + (
    r"|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
)
_CONFIG = {
    "backend": "tokenizers",
    "bos_token": _BOS,
    "eos_token": _EOT,
    "pad_token": _EOT,
    "tokenizer_class": "CLIPTokenizer",
    "unk_token": _EOT,
}


class Encoded(NamedTuple):
    """A text as ids, int32[l] with start and end of text, and whether it was cut."""

    ids: np.ndarray
    truncated: bool


class Tokenizer:
    """A CLIP tokenizer that cuts at sentence ends; can be pickled."""

    def __init__(self, folder: str | os.PathLike, max_tokens: int = MAX_TOKENS):
        """Loads the tokenizer of a folder, offline.

        Args:
            folder: with tokenizer.json, or vocab.json and merges.txt; of these only the vocabulary
                is read, for the rest is the same in every CLIP tokenizer.
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
            vocab, merges = _read_vocabulary(folder)
            self._bpe = _clip_bpe(vocab, merges)
        except Exception as error:  # JSON's, KeyErrors, and the bare ones of the library's Rust
            raise ValueError(f"{folder} holds no CLIP tokenizer ({error!r}).") from error
        self.vocab_size = len(vocab)
        if self.vocab_size < MIN_VOCAB:
            raise ValueError(
                f"{folder} holds {self.vocab_size} tokens; a CLIP tokenizer has at least "
                f"{MIN_VOCAB} (all bytes, start and end)."
            )
        self.bos_id, self.eot_id = vocab[_BOS], vocab[_EOT]
        self.pad_id = self.eot_id  # as CLIP pads

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
        cut: list[int] = []
        # No token crosses white space, so the tokens of a text are those of its sentences.
        for sentence in _SENTENCE_END.split(text):
            more = self._bpe.encode(sentence, add_special_tokens=False).ids
            if len(cut) + len(more) > room:
                cut = cut or more[:room]
                break
            cut += more
        return Encoded(np.asarray([self.bos_id, *cut, self.eot_id], np.int32), True)


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


def _read_vocabulary(folder: Path) -> tuple[dict[str, int], list[tuple[str, str]]]:
    """The tokens of a folder with their ids, and the merges in the order of their learning."""
    if (folder / "tokenizer.json").is_file():
        saved = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
        vocab, merges = saved["model"]["vocab"], saved["model"]["merges"]
        vocab = vocab | {token["content"]: token["id"] for token in saved["added_tokens"]}
    else:
        vocab = json.loads((folder / "vocab.json").read_text(encoding="utf-8"))
        lines = (folder / "merges.txt").read_text(encoding="utf-8").split("\n")
        merges = [line for line in lines if line and not line.startswith("#version")]
    return vocab, [tuple(m.split(" ")) if isinstance(m, str) else tuple(m) for m in merges]


def _clip_bpe(vocab: Mapping[str, int], merges: Sequence[tuple[str, str]]) -> tokenizers.Tokenizer:
    """CLIP's tokenizer of a vocabulary, as transformers' `CLIPTokenizer` builds it.

    Built here, for the import of transformers takes most of a second.
    """
    model = models.BPE(
        vocab=dict(vocab),
        merges=list(merges),
        unk_token=_EOT,
        continuing_subword_prefix="",
        end_of_word_suffix=_WORD_END,
    )
    bpe = tokenizers.Tokenizer(model)
    bpe.normalizer = normalizers.Sequence(
        [
            normalizers.NFC(),
            normalizers.Replace(tokenizers.Regex(r"\s+"), " "),
            normalizers.Lowercase(),
        ]
    )
    bpe.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(tokenizers.Regex(_SPLIT), behavior="removed", invert=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    bpe.post_processor = processors.RobertaProcessing(
        (_EOT, vocab[_EOT]), (_BOS, vocab[_BOS]), trim_offsets=False, add_prefix_space=False
    )
    bpe.decoder = decoders.ByteLevel()
    bpe.add_special_tokens(
        [tokenizers.AddedToken(token, normalized=False) for token in (_BOS, _EOT)]
    )
    return bpe


def copy_tokenizer(source: str | os.PathLike, folder: str | os.PathLike) -> None:
    """Copies a tokenizer of any form to another folder, as tokenizer.json.

    Raises:
        FileNotFoundError, ValueError: when the source is not a CLIP tokenizer.
    """
    _save(Tokenizer(source)._bpe, Path(folder))


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
    blank = _clip_bpe({_BOS: 0, _EOT: 1}, [])
    blank.train_from_iterator(texts, trainer)
    merges = [tuple(pair) for pair in json.loads(blank.to_str())["model"]["merges"]]
    tokens = dict.fromkeys(letters + ["".join(pair) for pair in merges])
    vocab = {token: index for index, token in enumerate([*tokens, _BOS, _EOT])}
    _save(_clip_bpe(vocab, merges), Path(folder))


def _save(bpe: tokenizers.Tokenizer, folder: Path) -> None:
    write_text(folder / "tokenizer_config.json", json.dumps(_CONFIG, indent=2) + "\n")
    # Last, for a folder with this file has a tokenizer.
    write_text(folder / "tokenizer.json", bpe.to_str(pretty=True))
