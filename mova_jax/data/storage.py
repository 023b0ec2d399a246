"""Folders that are on this machine or at a URL (gs://, s3:// and what else fsspec knows), alike.

    folder = folder_of("gs://bucket/shards")        # or a path
    folder.write("a.json", b"{}")                   # appears when whole, or not at all
    with folder.writing("b.bin") as path: ...       # a local file, stored when all went well
    with folder.reading("b.bin") as path: ...       # a local file; a copy is removed after

Paths go straight to the operating system. Only this file knows fsspec, and a URL needs what fsspec
asks for it (gcsfs for gs://, s3fs for s3://). All that goes wrong is an OSError.
"""

import contextlib
import fcntl
import functools
import hashlib
import os
import posixpath
import shutil
import tempfile
import uuid
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

# Stores in which a file appears when it is whole; elsewhere it is written aside and moved.
_OBJECT_STORES = {"gs", "gcs", "s3", "s3a", "abfs", "abfss", "az", "memory"}
# What fsspec calls the files of this machine.
_LOCAL = {"file", "local"}
_THREADS = 16  # requests at a time


def is_url(path: str | os.PathLike) -> bool:
    """Whether it names a place that is not a path."""
    return "://" in os.fspath(path)


def join(folder: str | os.PathLike, inside: str) -> Path | str:
    """A file of a folder: a path of a path, a URL of a URL."""
    return f"{os.fspath(folder).rstrip('/')}/{inside}" if is_url(folder) else Path(folder) / inside


def leaves(name: str) -> bool:
    """Whether a name is not that of a file in a folder: absolute, above it, or the folder itself.

    Where links lead is another question, see `LocalFolder.leads_out`.
    """
    return posixpath.isabs(name) or posixpath.normpath(name).split("/")[0] in ("..", ".")


def folder_of(path: str | os.PathLike) -> "LocalFolder":
    """The folder of a path or a URL; `file://` is a path, with links like any other.

    Raises:
        OSError: when fsspec does not know the protocol, or lacks what it needs for it.
    """
    if not is_url(path):
        return LocalFolder(path)
    protocol, _, place = os.fspath(path).partition("://")
    return LocalFolder(place) if protocol in _LOCAL else RemoteFolder(os.fspath(path))


def local_file(path: str | os.PathLike):
    """A context manager with the path of a file on this machine: itself, or a copy of a URL."""
    if not is_url(path):
        return contextlib.nullcontext(Path(path))
    parent, _, name = os.fspath(path).rpartition("/")
    return folder_of(parent).reading(name)


@contextlib.contextmanager
def only_user(path: str | os.PathLike, wait: bool = False) -> Iterator[None]:
    """Keeps other processes of this machine out of a folder; a killed one is out by itself.

    Raises:
        BlockingIOError: when another one is in it, and `wait` is off.
    """
    if is_url(path):
        digest = hashlib.sha256(os.fspath(path).rstrip("/").encode()).hexdigest()[:16]
        path = Path(tempfile.gettempdir()) / f"mova_jax-{os.getuid()}-{digest}.lock"
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
    else:
        handle = os.open(path, os.O_RDONLY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            raise
        except OSError:
            pass  # some network file systems have no locks
        yield
    finally:
        os.close(handle)


class LocalFolder:
    """A folder on this machine. Names are relative, with slashes, and stay inside."""

    def __init__(self, path: str | os.PathLike):
        """Names it; nothing is made yet."""
        self.path = os.path.abspath(path)

    def __str__(self) -> str:
        return self.path

    def make(self) -> bool:
        """Makes the folder and those it lies in; whether it was not there."""
        new = not os.path.isdir(self.path)
        os.makedirs(self.path, exist_ok=True)
        return new

    def leads_out(self, name: str) -> bool:
        """Whether a link takes a name of the folder out of it."""
        real = os.path.realpath(self.path)
        return os.path.commonpath([real, os.path.realpath(self._of(name))]) != real

    def names(self, under: str = "") -> list[str]:
        """What lies directly in the folder or in one of its folders; none where that is not."""
        with contextlib.suppress(FileNotFoundError):
            return sorted(os.listdir(self._of(under)))
        return []

    def stamps(self) -> dict[str, str]:
        """All files below, each with a text that is another one when the file changed."""
        found = {}
        for where, _, files in os.walk(self.path):
            for file in files:
                path = os.path.join(where, file)
                found[os.path.relpath(path, self.path)] = stamp(path)
        return found

    def size(self, name: str) -> int:
        """Bytes of a file; -1 when there is none."""
        with contextlib.suppress(FileNotFoundError):
            return os.stat(self._of(name)).st_size
        return -1

    def read(self, name: str) -> bytes:
        """The bytes of a file."""
        return Path(self._of(name)).read_bytes()

    def read_all(self, names: Iterable[str]) -> list[bytes]:
        """The bytes of files, in their order."""
        return [self.read(name) for name in names]

    def write(self, name: str, data: bytes, lasting: bool = False) -> None:
        """Stores a file, whole or not at all; `lasting` also where the power is lost."""
        with self.writing(name, lasting) as path:
            path.write_bytes(data)

    @contextlib.contextmanager
    def writing(self, name: str, lasting: bool = True) -> Iterator[Path]:
        """A path to write to, which becomes the file when the block ends without an error."""
        path = Path(self._of(name))
        aside = path.with_name(f"{path.name}.{uuid.uuid4().hex}.partial")
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            yield aside
            if lasting:  # otherwise it can have its name before it has its bytes
                with aside.open("rb") as stream:
                    os.fsync(stream.fileno())
            aside.replace(path)
        finally:
            aside.unlink(missing_ok=True)

    @contextlib.contextmanager
    def reading(self, name: str) -> Iterator[Path]:
        """A path to read a file from."""
        yield Path(self._of(name))

    def fetch(self, name: str, path: Path) -> None:
        """Copies a file to a path on this machine."""
        shutil.copyfile(self._of(name), path)

    def move(self, name: str, to: str) -> None:
        """Gives a file another name, or a place in another folder of this one."""
        target = Path(self._of(to))
        target.parent.mkdir(parents=True, exist_ok=True)
        os.replace(self._of(name), target)

    def remove(self, names: Iterable[str]) -> None:
        """Removes files; those that are not there are no error."""
        for name in names:
            Path(self._of(name)).unlink(missing_ok=True)

    def remove_folder(self, name: str = "") -> None:
        """Removes a folder with all that is in it; '' for this one."""
        shutil.rmtree(self._of(name), ignore_errors=True)

    def remove_if_empty(self) -> None:
        """Removes this folder, unless there is something in it."""
        with contextlib.suppress(OSError):
            os.rmdir(self.path)

    def _of(self, name: str) -> str:
        """Where a file is.

        Raises:
            ValueError: when its name leads out of the folder.
        """
        if not name:
            return self._root
        if leaves(name):
            raise ValueError(f"the name {name!r} leads out of {self.path}")
        return posixpath.join(self._root, posixpath.normpath(name))

    @property
    def _root(self) -> str:
        return self.path


class RemoteFolder(LocalFolder):
    """A folder at a URL."""

    def __init__(self, url: str):
        """Names it, and finds who can read it."""
        self.path = url.rstrip("/")
        with _os_errors(url):
            self._fs, self._place = _file_system(self.path)
        self._is_object_store = bool({url.partition("://")[0]} & _OBJECT_STORES)

    def make(self) -> bool:
        """Makes the folder, where the store knows folders; whether it was not there."""
        with _os_errors(self.path):
            new = not self._is_object_store and not self._fs.exists(self._root)
        self._make(self._root)
        return new

    def leads_out(self, name: str) -> bool:
        """See `LocalFolder.leads_out`; stores have no links."""
        return False

    def names(self, under: str = "") -> list[str]:
        """See `LocalFolder.names`."""
        with _os_errors(self.path), contextlib.suppress(FileNotFoundError):
            self._fs.invalidate_cache()  # others write here too
            found = self._fs.ls(self._of(under), detail=False)
            return sorted({name.rstrip("/").rpartition("/")[2] for name in found} - {""})
        return []

    def stamps(self) -> dict[str, str]:
        """See `LocalFolder.stamps`; one listing, however many files."""
        with _os_errors(self.path):
            self._fs.invalidate_cache()
            found = self._fs.find(self._root, detail=True)
        start = len(self._root.rstrip("/")) + 1
        return {name[start:]: _stamp_of(info) for name, info in found.items() if name[start:]}

    def size(self, name: str) -> int:
        """See `LocalFolder.size`."""
        with _os_errors(self.path), contextlib.suppress(FileNotFoundError):
            self._fs.invalidate_cache()
            return self._fs.info(self._of(name))["size"]
        return -1

    def read(self, name: str) -> bytes:
        """See `LocalFolder.read`."""
        with _os_errors(f"{self.path}/{name}"):
            return self._fs.cat_file(self._of(name))

    def read_all(self, names: Iterable[str]) -> list[bytes]:
        """See `LocalFolder.read_all`; several at a time."""
        with ThreadPoolExecutor(_THREADS) as pool:
            return list(pool.map(self.read, names))

    def write(self, name: str, data: bytes, lasting: bool = False) -> None:
        """See `LocalFolder.write`."""
        self._store(name, lambda place: self._fs.pipe_file(place, data))

    @contextlib.contextmanager
    def writing(self, name: str, lasting: bool = True) -> Iterator[Path]:
        """See `LocalFolder.writing`; the file is uploaded when it is whole."""
        with tempfile.TemporaryDirectory(prefix="mova_jax-") as scratch:
            path = Path(scratch) / posixpath.basename(name)
            yield path
            self._store(name, lambda place: self._fs.put_file(str(path), place))

    @contextlib.contextmanager
    def reading(self, name: str) -> Iterator[Path]:
        """See `LocalFolder.reading`; a copy, which is removed after."""
        with tempfile.TemporaryDirectory(prefix="mova_jax-") as scratch:
            path = Path(scratch) / f"copy{posixpath.splitext(name)[1]}"
            self.fetch(name, path)
            yield path

    def fetch(self, name: str, path: Path) -> None:
        """See `LocalFolder.fetch`."""
        with _os_errors(f"{self.path}/{name}"):
            self._fs.get_file(self._of(name), str(path))

    def move(self, name: str, to: str) -> None:
        """See `LocalFolder.move`."""
        with _os_errors(f"{self.path}/{name}"):
            self._make(posixpath.dirname(self._of(to)))
            self._fs.mv(self._of(name), self._of(to))

    def remove(self, names: Iterable[str]) -> None:
        """See `LocalFolder.remove`."""
        with ThreadPoolExecutor(_THREADS) as pool:
            list(pool.map(self._remove, names))

    def remove_folder(self, name: str = "") -> None:
        """See `LocalFolder.remove_folder`."""
        with contextlib.suppress(FileNotFoundError), _os_errors(self.path):
            self._fs.rm(self._of(name), recursive=True)

    def remove_if_empty(self) -> None:
        """See `LocalFolder.remove_if_empty`."""
        with contextlib.suppress(OSError), _os_errors(self.path):
            self._fs.rmdir(self._root)

    def _remove(self, name: str) -> None:
        with contextlib.suppress(FileNotFoundError), _os_errors(f"{self.path}/{name}"):
            self._fs.rm_file(self._of(name))

    def _store(self, name: str, write) -> None:
        place = self._of(name)
        aside = place if self._is_object_store else f"{place}.{uuid.uuid4().hex}.partial"
        with _os_errors(f"{self.path}/{name}"):
            self._make(posixpath.dirname(place))
            try:
                write(aside)
                if aside != place:
                    self._fs.mv(aside, place)
            except BaseException:
                if aside != place:
                    with contextlib.suppress(Exception):
                        self._fs.rm_file(aside)
                raise

    def _make(self, place: str) -> None:
        if not self._is_object_store:
            with _os_errors(self.path):
                self._fs.makedirs(place, exist_ok=True)

    @property
    def _root(self) -> str:
        return self._place


def stamp(path: str | os.PathLike) -> str:
    """A text that is another one when a local file was changed; '' when there is none."""
    try:
        info = os.stat(path)
    except OSError:
        return ""
    return f"{info.st_size}-{info.st_mtime_ns}"


def _stamp_of(info: dict) -> str:
    """What a store says of the version of a file, by the first name that it has for it."""
    names = ("ETag", "etag", "md5Hash", "generation", "mtime", "LastModified", "updated", "created")
    version = next((info[name] for name in names if info.get(name) is not None), "")
    return f"{info.get('size')}-{version}"


@functools.lru_cache
def _file_system(url: str):
    """fsspec's file system of a URL, and the place in it.

    The URL is not taken apart by fsspec itself, in whose language `a::b` would be another place.
    """
    import fsspec

    kind = fsspec.get_filesystem_class(url.partition("://")[0])
    file_system = kind(**kind._get_kwargs_from_urls(url))
    return file_system, kind._strip_protocol(url)


@contextlib.contextmanager
def _os_errors(what: str) -> Iterator[None]:
    """Turns what the libraries of stores raise into OSError, of which there is one kind a store."""
    try:
        yield
    except (OSError, KeyboardInterrupt):
        raise
    except ImportError as error:
        raise OSError(f"{what} cannot be used: {error} (pip install it)") from error
    except Exception as error:
        raise OSError(f"{what}: {type(error).__name__}: {error}") from error
