"""The manifest of a shard folder: its contents and where they come from.

`write_manifest` comes after everything else, so that a folder with a manifest.json is a whole one;
`read_manifest` explains what is wrong with a folder that has none, or one of another version.
"""

import contextlib
import dataclasses
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mova_jax.data.shards.records import SCHEMA_VERSION
from mova_jax.data.shards.tfds_info import DATASET_INFO, dataset_info_json, features_dict
from mova_jax.utils.atomic import write_text

MANIFEST = "manifest.json"
_MAKE = "make the shards with python -m mova_jax.prepare"


class ShardError(Exception):
    """A shard folder that cannot be written or read; the message says what to do."""


@contextlib.contextmanager
def reraise_as_shard_error(failed: str) -> Iterator[None]:
    """Turns what the file system and ArrayRecord's C++ raise into a `ShardError`.

    Args:
        failed: the start of its message: what could not be done, and where.
    """
    try:
        yield
    except (OSError, RuntimeError) as error:
        raise ShardError(
            f"{failed}: {error}. Nothing half-made was kept; make room or correct the path, and "
            "run again."
        ) from error


@dataclasses.dataclass(frozen=True)
class ShardInfo:
    """One file of a split."""

    file: str
    records: int
    bytes: int
    sha256: str


@dataclasses.dataclass(frozen=True)
class SplitInfo:
    """A split: the totals of its records, and its files in order."""

    videos: int
    frames: int
    captions: int
    shards: tuple[ShardInfo, ...]


@dataclasses.dataclass(frozen=True)
class Manifest:
    """The contents of a shard folder, and how it was made.

    Attributes:
        name: of the data set, lower case letters, digits and underscores.
        splits: by their names.
        settings: of the command that made it (frames a second, size, seed ...); JSON values only.
        skipped: {"id", "reason"} of every video that was left out.
        warnings: {"id", "reason"} of every video that is in, but with a fault.
        truncated_captions: captions longer than `settings["max_tokens"]` tokens.
        licence: a note on the right to use the videos.
        schema_version: of the records.
    """

    name: str
    splits: dict[str, SplitInfo]
    settings: dict[str, Any] = dataclasses.field(default_factory=dict)
    skipped: tuple[dict[str, str], ...] = ()
    warnings: tuple[dict[str, str], ...] = ()
    truncated_captions: int = 0
    licence: str = ""
    schema_version: int = SCHEMA_VERSION


def write_manifest(folder: str | os.PathLike, manifest: Manifest) -> None:
    """Writes manifest.json, after all splits: its presence marks the folder as whole.

    Raises:
        ShardError: when it cannot be stored.
    """
    folder = Path(folder)
    shards = {
        split: [(shard.records, shard.bytes) for shard in info.shards]
        for split, info in manifest.splits.items()
    }
    with reraise_as_shard_error(f"The manifest could not be written to {folder}"):
        features_dict().save_config(str(folder))
        info = dataset_info_json(manifest.name, shards, licence=manifest.licence)
        write_text(folder / DATASET_INFO, info)
        write_text(folder / MANIFEST, json.dumps(dataclasses.asdict(manifest), indent=1) + "\n")


def read_manifest(folder: str | os.PathLike) -> Manifest:
    """Reads manifest.json.

    Raises:
        ShardError: when the folder is missing, empty or unfinished, or of another schema version.
    """
    folder = Path(folder)
    path = folder / MANIFEST
    if not folder.is_dir():
        raise ShardError(f"There is no shard folder {folder}; correct the path, or {_MAKE}.")
    if not path.exists():
        state = "is empty" if not any(folder.iterdir()) else f"has no {MANIFEST} (not finished?)"
        raise ShardError(f"The shard folder {folder} {state}; {_MAKE}.")
    return parse_manifest(path.read_bytes(), str(folder))


def parse_manifest(text: bytes, folder: str) -> Manifest:
    """The manifest in the text of a manifest.json, which may come from a stranger.

    Args:
        text: of the file.
        folder: path or URL of its folder, for messages.

    Raises:
        ShardError: when it is not a manifest, or of another schema version.
    """
    try:
        fields = json.loads(text)
        version = fields["schema_version"]
        if version == SCHEMA_VERSION:
            return _manifest_from(fields)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ShardError(
            f"{folder}/{MANIFEST} is not a manifest ({error!r}); {_MAKE} again."
        ) from error
    raise ShardError(
        f"The shards in {folder} have schema version {version}, this code reads version "
        f"{SCHEMA_VERSION}; {_MAKE} again, or use the release that wrote them."
    )


def _manifest_from(fields: dict[str, Any]) -> Manifest:
    splits = {
        split: SplitInfo(**{**info, "shards": tuple(ShardInfo(**s) for s in info["shards"])})
        for split, info in fields["splits"].items()
    }
    lists = {key: tuple(fields[key]) for key in ("skipped", "warnings")}
    manifest = Manifest(**{**fields, "splits": splits, **lists})
    _check(manifest)
    return manifest


def _check(manifest: Manifest) -> None:
    """Checks the values of a manifest, which may come from a stranger.

    Raises:
        ValueError: a shard is not a file name in the folder, a count is not a count, or the like.
    """
    for info in manifest.splits.values():
        counts = [info.videos, info.frames, info.captions]
        for shard in info.shards:
            if Path(shard.file).name != shard.file or shard.file in ("", ".."):
                raise ValueError(f"the shard {shard.file!r} is not a name in the folder")
            counts += [shard.records, shard.bytes]
        if wrong := [n for n in counts if type(n) is not int or not 0 <= n < 2**53]:
            raise ValueError(f"{wrong[0]!r} is not a number of something")
    for entry in (*manifest.skipped, *manifest.warnings):
        if not {"id", "reason"} <= entry.keys():
            raise ValueError(f"{entry!r} has no id or no reason")
    if not isinstance(manifest.settings, dict):
        raise ValueError(f"the settings are {manifest.settings!r}")
