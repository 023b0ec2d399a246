"""Local copies of shards at a URL, for ArrayRecord opens local files only.

    folder = local_folder("gs://bucket/shards", cache=".data")
    source = open_split(folder, "train")

Every shard is checked against the manifest before it gets its name. Processes of one machine that
start at once wait for the one that copies; shards that a killed process copied are used.
"""

import hashlib
import os
import re
from pathlib import Path

from mova_jax.data.shards.manifest import (
    MANIFEST,
    ShardError,
    ShardInfo,
    parse_manifest,
    reraise_as_shard_error,
)
from mova_jax.data.storage import Folder, is_url
from mova_jax.utils.lock import lock
from mova_jax.utils.progress_bar import bar_of

_SMALL = {".json", ".txt"}  # files that are not shards
_FOLDERS = ("", "tokenizer")
_CACHE = ".data"  # the default of `data.cache`


def local_folder(source: str | os.PathLike, cache: str | os.PathLike = _CACHE) -> Path:
    """The shards of `source` as a folder on this machine.

    Args:
        source: a path, which is returned as it is, or a URL.
        cache: a folder for copies of URLs; shards with another manifest get another copy.

    Raises:
        ShardError: when the shards are missing, not whole, or cannot be copied.
    """
    if not is_url(source):
        return Path(source)
    with reraise_as_shard_error(f"The shards at {source} cannot be copied to {cache}"):
        remote = Folder(source)
        try:
            manifest = remote.read(MANIFEST)
        except FileNotFoundError as error:
            raise ShardError(
                f"There is no {MANIFEST} at {source}; correct the URL, or make the shards with "
                "python -m mova_jax.prepare."
            ) from error
        digest = hashlib.sha256(remote.path.encode() + b"\n" + manifest).hexdigest()[:16]
        name = re.sub(r"[^\w.-]", "_", remote.path.rpartition("/")[2])
        folder = Path(cache) / f"{name[:40]}-{digest}"
        if not (folder / MANIFEST).exists():
            folder.mkdir(parents=True, exist_ok=True)
            with lock(folder, wait=True):
                if not (folder / MANIFEST).exists():
                    _copy(remote, folder, manifest)
        return folder


def _copy(remote: Folder, folder: Path, manifest: bytes) -> None:
    """Copies all files, the manifest last."""
    splits = parse_manifest(manifest, str(remote)).splits  # no name leads out of the folder
    shards = [shard for info in splits.values() for shard in info.shards]
    local = Folder(folder)
    total = sum(shard.bytes for shard in shards)
    with bar_of(f"copying {remote}", total, unit="B", unit_scale=True) as bar:
        for shard in shards:
            if local.size(shard.file) != shard.bytes:
                _copy_shard(remote, local, shard)
            bar.update(shard.bytes)
    for under in _FOLDERS:
        for name in remote.names(under):
            if Path(name).suffix in _SMALL and name != MANIFEST:
                name = f"{under}/{name}".lstrip("/")
                local.write(name, remote.read(name))
    local.write(MANIFEST, manifest)


def _copy_shard(remote: Folder, local: Folder, shard: ShardInfo) -> None:
    with local.writing(shard.file) as path:
        try:
            remote.fetch(shard.file, path)
        except FileNotFoundError as error:
            raise ShardError(
                f"Shard {remote}/{shard.file} is in the manifest, not there."
            ) from error
        with path.open("rb") as stream:
            digest = hashlib.file_digest(stream, "sha256").hexdigest()
        if digest != shard.sha256:
            raise ShardError(
                f"Shard {remote}/{shard.file} is not the one of its manifest (sha256 {digest}, "
                f"expected {shard.sha256}); make it again with python -m mova_jax.prepare."
            )
