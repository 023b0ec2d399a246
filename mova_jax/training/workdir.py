"""The workdir of a run, which holds its config and its tokenizer from the start.

WORKDIR/config.json               written when the run starts; a restart has to agree with it
WORKDIR/environment.json          variables that change figures (`utils/environment.py`)
WORKDIR/checkpoints/tokenizer/    a copy: the embeddings are only valid with this tokenizer
WORKDIR/metrics.jsonl  tensorboard/  checkpoints/  plots/  report.html
WORKDIR/tracker_id                of the run in an experiment tracker, if it has one
WORKDIR/ranks/SPLIT.npz           the rank of every query of the final evaluation
"""

import os
from pathlib import Path

from mova_jax import config as config_lib
from mova_jax.config import Config
from mova_jax.data.tokenizer import Tokenizer, copy_tokenizer, is_tokenizer
from mova_jax.training.checkpoint import FOLDER
from mova_jax.utils import atomic

CONFIG = "config.json"
RANKS = "ranks"
REPORT = "report.html"

# Keys that may change at a restart: they set the speed of a run or what it prints, and change its
# numbers only by the order of sums.
RESUMABLE_KEYS = (
    "data.cache",
    "data.worker_processes",
    "train.checkpoint_every",
    "train.microbatch",
    "eval.batch_size",
    "log.tracker",
    "model.remat",
    "mesh.data",
    "mesh.fsdp",
    "mesh.tensor",
)


class RunError(Exception):
    """A run cannot start or resume; the message says what to do."""


def check(workdir: str | os.PathLike, config: Config) -> None:
    """Checks that the workdir is empty or belongs to a run of this config.

    Args:
        workdir: may be absent.
        config: of the run; `RESUMABLE_KEYS` may change at a restart, and a vocabulary size of 0
            agrees with any.

    Raises:
        RunError: names the keys in which the run of the workdir differs.
    """
    path = Path(workdir) / CONFIG
    if not path.exists():
        return
    try:
        found = config_lib.from_json(path.read_text())
    except ValueError as error:
        raise RunError(
            f"{path} is not the configuration of a run of this version: {error}\n"
            "Choose another --workdir."
        ) from error
    free = (*RESUMABLE_KEYS, "" if config.model.text.vocab_size else "model.text.vocab_size")
    lines = [
        f"\n  {name}: {old!r} there, {new!r} now"
        for name, (old, new) in config_lib.difference(config, found).items()
        if name not in free
    ]
    if lines:
        raise RunError(
            f"{workdir} holds a run of another configuration:{''.join(lines)}\n"
            "Choose another --workdir, or start with the configuration of that run."
        )


def claim(workdir: str | os.PathLike, config: Config) -> None:
    """Writes `config.json` into a workdir, which is made when there is none.

    Raises:
        RunError: see `check`.
    """
    check(workdir, config)
    atomic.write_text(Path(workdir) / CONFIG, config_lib.to_json(config))


def tokenizer_folder(workdir: str | os.PathLike) -> Path:
    """The folder of a run's copy of its tokenizer."""
    return Path(workdir) / FOLDER / "tokenizer"


def save_tokenizer(workdir: str | os.PathLike, tokenizer: Tokenizer) -> None:
    """Copies the tokenizer to the checkpoints, or checks that the copy is the same.

    Raises:
        RunError: the run was started with another tokenizer.
    """
    folder = tokenizer_folder(workdir)
    if not is_tokenizer(folder):
        copy_tokenizer(tokenizer.folder, folder)
        return
    probe = "The quick brown fox, 1234 times; it's over."
    saved = Tokenizer(folder, tokenizer.max_tokens)
    same_ids = list(saved.encode(probe).ids) == list(tokenizer.encode(probe).ids)
    if saved.vocab_size != tokenizer.vocab_size or not same_ids:
        raise RunError(
            f"the tokenizer of {tokenizer.folder} ({tokenizer.vocab_size} tokens) is not the one "
            f"that this run was started with ({folder}, {saved.vocab_size} tokens): the shards "
            "were made again. Choose another --workdir, or bring back the old tokenizer."
        )
