"""What a workdir holds from its first minute: the configuration and the vocabulary of its run.

WORKDIR/config.json               written once; a restart has to agree with it
WORKDIR/checkpoints/tokenizer/    a copy, for the embeddings mean nothing under another one
WORKDIR/metrics.jsonl  tensorboard/  checkpoints/  plots/  report.html
"""

import os
from pathlib import Path

from mova_jax import config as config_lib
from mova_jax.config import Config
from mova_jax.data.tokenizer import Tokenizer, copy_tokenizer, is_tokenizer
from mova_jax.training.checkpoint import FOLDER

CONFIG = "config.json"
REPORT = "report.html"

# Keys that change how fast a run goes or what is told of it, and its numbers by no more than the
# order of a sum does: how many rows go through the towers or an evaluation at once among them.
RESUMABLE_KEYS = (
    "data.cache",
    "data.threads",
    "data.worker_processes",
    "data.prefetch",
    "train.checkpoint_every",
    "train.microbatch",
    "eval.batch_size",
    "eval.timelines",
    "model.remat",
    "mesh.data",
    "mesh.fsdp",
    "mesh.tensor",
)


class RunError(Exception):
    """A run that cannot start or go on; the message says what to do."""


def check(workdir: str | os.PathLike, config: Config) -> None:
    """Checks that the workdir is empty or this run's own.

    Args:
        workdir: may be absent.
        config: of the run; keys of `FREE` may change at a restart, and a vocabulary size of 0
            stands for any.

    Raises:
        RunError: when the workdir belongs to a run of another configuration.
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
    """Writes `config.json`, aside and then renamed; the folder is made when there is none.

    Raises:
        RunError: see `check`.
    """
    check(workdir, config)
    path = Path(workdir) / CONFIG
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(path.name + ".part")
    aside.write_text(config_lib.to_json(config))
    aside.replace(path)


def tokenizer_folder(workdir: str | os.PathLike) -> Path:
    """Where a run keeps the vocabulary of its embeddings."""
    return Path(workdir) / FOLDER / "tokenizer"


def save_tokenizer(workdir: str | os.PathLike, tokenizer: Tokenizer) -> None:
    """Copies the tokenizer to the checkpoints, or checks that the copy is the same.

    Raises:
        RunError: when the run was started with another vocabulary.
    """
    folder = tokenizer_folder(workdir)
    if not is_tokenizer(folder):
        copy_tokenizer(tokenizer.folder, folder)
        return
    probe = "The quick brown fox, 1234 times; it's over."
    kept = Tokenizer(folder, tokenizer.max_tokens)
    same_ids = list(kept.encode(probe).ids) == list(tokenizer.encode(probe).ids)
    if kept.vocab_size != tokenizer.vocab_size or not same_ids:
        raise RunError(
            f"the tokenizer of {tokenizer.folder} ({tokenizer.vocab_size} tokens) is not the one "
            f"that this run was started with ({folder}, {kept.vocab_size} tokens): the shards were "
            "made anew. Choose another --workdir, or bring back the old tokenizer."
        )
