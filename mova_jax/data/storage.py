"""Folders on this machine or at a URL (gs://, s3:// and all else that fsspec knows), used alike.

    folder = Folder("gs://bucket/shards")           # or a path
    folder.write("a.json", b"{}")                   # appears complete, or not at all
    with folder.writing("b.bin") as path: ...       # a local file, stored when the block succeeds
    with folder.reading("b.bin") as path: ...       # a local file; a copy of a URL is removed after

Only this file imports fsspec. A URL needs the package that fsspec names for its protocol (gcsfs for
gs://, s3fs for s3://). Every failure is an OSError.

etils.epath would not do: it knows four protocols, reports no version of an object (time 0 for S3,
whole seconds for a local file) and hides names that end in `~`. Neither it nor UPath is atomic.
"""

import contextlib
import functools
import os
import posixpath
import shutil
import tempfile
import uuid
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import fsspec

from mova_jax.utils.atomic import replacing

# An object appears when it is complete; other stores need a temporary name and a rename.
_OBJECT_STORES = {"gs", "gcs", "s3", "s3a", "abfs", "abfss", "az", "memory"}
_THREADS = 16  # concurrent requests
# What a store calls the version of a file; the first that it reports is used.
_VERSIONS = ("ETag", "etag", "md5Hash", "generation", "mtime", "LastModified", "updated", "created")


def is_url(path: str | os.PathLike) -> bool:
    """Whether this is a URL and not a path."""
    return "://" in os.fspath(path)


def join(folder: str | os.PathLike, name: str) -> Path | str:
    """The path, or the URL, of a file in a folder."""
    return f"{os.fspath(folder).rstrip('/')}/{name}" if is_url(folder) else Path(folder) / name


def escapes(name: str) -> bool:
    """Whether a name is absolute, above its folder or the folder itself, whatever links do."""
    return posixpath.isabs(name) or posixpath.normpath(name).split("/")[0] in ("..", ".")


def local_file(path: str | os.PathLike):
    """A context manager with the path of a local file: the file itself, or a copy of a URL."""
    if not is_url(path):
        return contextlib.nullcontext(Path(path))
    parent, _, name = os.fspath(path).rpartition("/")
    return Folder(parent).reading(name)


class Folder:
    """A folder; names in it are relative, with slashes, and cannot leave it.

    Its `path` is absolute, or a URL; `is_local` says which.
    """

    def __init__(self, path: str | os.PathLike):
        """Creates nothing; `file://` is a path. An OSError names a protocol that is not known."""
        path = os.fspath(path) if is_url(path) else f"file://{os.fspath(path)}"
        protocol, _, place = path.partition("://")
        self.is_local = protocol in ("file", "local")
        self.path = os.path.abspath(place) if self.is_local else path.rstrip("/")
        self._is_object_store = protocol in _OBJECT_STORES
        with _os_errors(self.path):
            self._fs, self._root = _file_system(protocol, self.path)

    def __str__(self) -> str:
        return self.path

    def make(self) -> bool:
        """Creates the folder and its parents; returns whether that was necessary."""
        if self._is_object_store:  # has no folders
            return False
        with _os_errors(self.path):
            is_new = not self._fs.exists(self._root)
            self._fs.makedirs(self._root, exist_ok=True)
        return is_new

    def links_outside(self, name: str) -> bool:
        """Whether a link takes a name out of the folder; only local folders have links."""
        if not self.is_local:
            return False
        root = os.path.realpath(self.path)
        return os.path.commonpath([root, os.path.realpath(self._place(name))]) != root

    def names(self, under: str = "") -> list[str]:
        """Names directly in the folder, or in one of its folders; none if that does not exist."""
        with contextlib.suppress(FileNotFoundError):
            found = self._call("ls", under, detail=False)
            return sorted({posixpath.basename(name.rstrip("/")) for name in found} - {""})
        return []

    def stamps(self) -> dict[str, str]:
        """All files below, each with a text that changes when the file changes; one listing."""
        found = self._call("find", "", detail=True)
        start = len(self._root.rstrip("/")) + 1
        stamps = {}
        for place, info in found.items():
            version = next((info[key] for key in _VERSIONS if info.get(key) is not None), "")
            stamps[place[start:]] = f"{info.get('size')}-{version}"
        return stamps

    def size(self, name: str) -> int:
        """Bytes of a file; -1 when there is none."""
        with contextlib.suppress(FileNotFoundError):
            return self._call("info", name)["size"]
        return -1

    def read(self, name: str) -> bytes:
        """The bytes of a file."""
        return self._call("cat_file", name)

    def read_all(self, names: Iterable[str]) -> list[bytes]:
        """The bytes of files, in their order; those of a URL are read in parallel."""
        return self._map(self.read, names)

    def write(self, name: str, data: bytes, durable: bool = False) -> None:
        """Stores a file, completely or not at all; `durable` also when the power is lost."""
        with self.writing(name, durable) as path:
            path.write_bytes(data)

    @contextlib.contextmanager
    def writing(self, name: str, durable: bool = True) -> Iterator[Path]:
        """A local path to write to, which becomes the file when the block ends without an error."""
        place = self._place(name)
        if self.is_local:
            with replacing(place, durable=durable) as path:
                yield path
            return
        with tempfile.TemporaryDirectory(prefix="mova_jax-") as scratch:
            path = Path(scratch) / posixpath.basename(name)
            yield path
            with _os_errors(f"{self.path}/{name}"):
                self._upload(str(path), place)

    @contextlib.contextmanager
    def reading(self, name: str) -> Iterator[Path]:
        """A local path to read a file from: its own, or that of a copy which is removed after."""
        if self.is_local:
            yield Path(self._place(name))
            return
        with tempfile.TemporaryDirectory(prefix="mova_jax-") as scratch:
            path = Path(scratch) / f"copy{posixpath.splitext(name)[1]}"
            self.fetch(name, path)
            yield path

    def fetch(self, name: str, path: Path) -> None:
        """Copies a file to a local path."""
        self._call("get_file", name, str(path))

    def move(self, name: str, to: str) -> None:
        """Renames a file, also into another folder of this one."""
        place, target = self._place(name), self._place(to)
        with _os_errors(f"{self.path}/{name}"):
            if self._is_object_store:  # `mv`, like `rm`, takes brackets in the URL for a pattern
                self._fs.cp_file(place, target)
                self._fs.rm_file(place)
            else:
                self._fs.makedirs(posixpath.dirname(target), exist_ok=True)
                (os.replace if self.is_local else self._fs.mv)(place, target)

    def remove(self, names: Iterable[str]) -> None:
        """Removes files; a missing one is no error."""

        def remove(name: str) -> None:
            with contextlib.suppress(FileNotFoundError):
                self._call("rm_file", name)

        self._map(remove, names)

    def remove_folder(self, name: str = "") -> None:
        """Removes a folder with all that is in it; '' for this one."""
        if self.is_local:
            shutil.rmtree(self._place(name), ignore_errors=True)
        elif self._is_object_store:
            inside = Folder(join(self.path, name)).stamps()
            self.remove(posixpath.join(name, file) for file in inside)
        else:
            with contextlib.suppress(FileNotFoundError):
                self._call("rm", name, recursive=True)

    def remove_if_empty(self) -> None:
        """Removes this folder unless something is in it."""
        with contextlib.suppress(OSError):
            self._call("rmdir", "")

    def _upload(self, path: str, place: str) -> None:
        if self._is_object_store:
            self._fs.put_file(path, place)
            return
        parent, _, name = place.rpartition("/")
        aside = f"{parent}/.{name}.{uuid.uuid4().hex}.partial"
        self._fs.makedirs(parent, exist_ok=True)
        try:
            self._fs.put_file(path, aside)
            self._fs.mv(aside, place)
        except BaseException:
            with contextlib.suppress(Exception):
                self._fs.rm_file(aside)
            raise

    def _call(self, method: str, name: str, *args, **kwargs):
        """Calls a method of fsspec on a file, without its cache: other processes write here too."""
        place = self._place(name)
        with _os_errors(f"{self.path}/{name}"):
            self._fs.invalidate_cache()
            return getattr(self._fs, method)(place, *args, **kwargs)

    def _map(self, function: Callable, names: Iterable[str]) -> list:
        with ThreadPoolExecutor(1 if self.is_local else _THREADS) as pool:
            return list(pool.map(function, names))

    def _place(self, name: str) -> str:
        """The file's name for fsspec."""
        if not name:
            return self._root
        if escapes(name):
            raise ValueError(f"the name {name!r} leads out of {self.path}")
        return posixpath.join(self._root, posixpath.normpath(name))


def cache_no_listings() -> None:
    """Lets gcsfs look into a folder each time, also for other libraries: others write there too."""
    fsspec.config.conf.setdefault("gcs", {})["use_listings_cache"] = False


@functools.lru_cache
def _file_system(protocol: str, url: str):
    """fsspec's file system of a URL or a path, and what it calls the place there.

    `fsspec.url_to_fs` would read `a::b` as a file within another one.
    """
    kind = fsspec.get_filesystem_class(protocol)
    return kind(**kind._get_kwargs_from_urls(url)), kind._strip_protocol(url)


@contextlib.contextmanager
def _os_errors(what: str) -> Iterator[None]:
    """Turns the exceptions of the stores' libraries, of which each has its own, into OSError."""
    try:
        yield
    except (OSError, KeyboardInterrupt):
        raise
    except ImportError as error:
        raise OSError(f"{what} cannot be used: {error} (pip install it)") from error
    except Exception as error:
        raise OSError(f"{what}: {type(error).__name__}: {error}") from error
