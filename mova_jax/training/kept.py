"""A run's first state and its step as they were traced before, so that its next start need not.

JAX keeps compiled programs but finds one by its text, and writes the text by tracing: seconds of
Python at each start. Here the text is kept too, as StableHLO by `jax.export` (no pickle), beside
the compiled programs. Its name is a hash of all that it comes from: the sources of this package,
the libraries that trace, JAX's settings, the configuration, the device, the shapes. What is not
under that name is traced and written, and nothing is ever deleted: a file has about 0.3 MB.

For one device. Programs for several have layouts of their own, and there compiling, which is what
a start then saves, takes minutes.
"""

import contextlib
import dataclasses
import hashlib
import os
import platform
from collections.abc import Callable
from importlib import metadata
from pathlib import Path

import jax
from jax import export

import mova_jax
from mova_jax.config import Config
from mova_jax.training.state import TrainSpec, TrainState
from mova_jax.typing import Batch

SOURCES = Path(mova_jax.__file__).parent
_LIBRARIES = ("jax", "jaxlib", "flax", "optax", "numpy", "ml_dtypes")


@dataclasses.dataclass(frozen=True)
class KeptPrograms:
    """The programs of a run, by what they come from besides their shapes."""

    folder: Path | None  # None: they are not kept
    origin: str  # from `origin`

    @classmethod
    def bundle_from_run(cls, config: Config, mesh: jax.sharding.Mesh) -> "KeptPrograms":
        """Beside JAX's compiled programs, where these are on a disk and the device is one."""
        cache = jax.config.jax_compilation_cache_dir
        if not cache or "://" in str(cache) or mesh.size > 1 or _changed(SOURCES):
            return cls(None, "")
        return cls(Path(cache) / "traced", origin(config, mesh))

    def initial(self, spec: TrainSpec) -> TrainState:
        """`recipe.initial()`."""
        if self.folder is None:
            return spec.initial()
        made = self._program("initial", lambda: jax.tree.leaves(spec.initial()), ())
        return jax.tree.unflatten(jax.tree.structure(spec.shapes), made())

    def train_step(self, step: Callable, spec: TrainSpec) -> Callable:
        """A function that does what `step` does, and donates its state too.

        Args:
            step: from `make_train_step`; only called, to be traced, for what was not kept.
            recipe: of the run.
        """
        if self.folder is None:
            return step
        structure, programs = jax.tree.structure(spec.shapes), {}

        def call(state: TrainState, batch: Batch):
            arguments = jax.tree.leaves(state), jax.tree.leaves(batch)
            shapes = tuple(leaf.shape for leaf in arguments[1])
            if shapes not in programs:
                batches = jax.tree.structure(batch)

                def flat(state: list, batch: list):
                    state = jax.tree.unflatten(structure, state)
                    state, metrics = step(state, jax.tree.unflatten(batches, batch))
                    return jax.tree.leaves(state), metrics

                programs[shapes] = self._program("train_step", flat, arguments, donate=(0,))
            leaves, metrics = programs[shapes](*arguments)
            return jax.tree.unflatten(structure, leaves), metrics

        return call

    def _program(self, name: str, function: Callable, arguments: tuple, donate=()) -> Callable:
        """The jitted function: what was kept of it, or traced now and kept."""
        shapes = jax.tree.map(jax.typeof, arguments)
        file = self.folder / f"{name}-{_hash(self.origin, repr(shapes))}.stablehlo"
        exported = _read(file)
        if exported is None:
            traced = jax.jit(function, donate_argnums=donate)
            try:
                exported = export.export(traced)(*shapes)
                _write(file, exported.serialize())
            except (ValueError, NotImplementedError, ImportError):
                # It calls what JAX does not promise to find in a later version, or there are no
                # flatbuffers to write it with.
                return traced
        return jax.jit(exported.call, donate_argnums=donate)


def origin(config: Config, mesh: jax.sharding.Mesh, sources: Path = SOURCES) -> str:
    """A hash of all that decides what is traced, but for the shapes of the arguments.

    Args:
        config: of the run.
        mesh: of its devices.
        sources: folder of the package.
    """
    settings = {
        name: value
        for name, value in sorted(jax.config.values.items())
        if name != "jax_compilation_cache_dir"
    }
    device = mesh.devices.flat[0]
    parts = [
        repr(config),
        repr(settings),
        repr([(name, metadata.version(name)) for name in _LIBRARIES]),
        platform.python_version(),
        f"{device.device_kind} {device.client.platform_version}",
        *_digests(sources),
    ]
    return _hash(*parts)


def _changed(sources: Path) -> bool:
    """Whether a file was put there since this process began, so that another text of it may run."""
    stats = [file.stat() for file in _files(sources)]
    # A copy may keep the time of its original (mtime); that of its arrival (ctime) is its own.
    return max(max(stat.st_mtime, stat.st_ctime) for stat in stats) > mova_jax.LOADED - 1


def _digests(sources: Path) -> list[str]:
    """Of each source file by its name."""
    return [
        f"{file.relative_to(sources)} {hashlib.sha256(file.read_bytes()).hexdigest()}"
        for file in _files(sources)
    ]


def _files(sources: Path) -> list[Path]:
    """All that can be imported; an editor's lock is a link to nothing."""
    return sorted(file for file in sources.rglob("*.py") if file.is_file())


def _hash(*parts: str) -> str:
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:32]


def _read(file: Path) -> export.Exported | None:
    """None for what is not there or was damaged."""
    try:
        return export.deserialize(bytearray(file.read_bytes()))
    except Exception:  # FlatBuffers raises whatever it stumbles over
        return None


def _write(file: Path, data: bytes) -> None:
    """Writes aside, then renames; a disk that is full or read-only just keeps nothing."""
    aside = file.with_name(f".{file.name}.{os.getpid()}")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        aside.write_bytes(data)
        aside.rename(file)
    except OSError:
        with contextlib.suppress(OSError):
            aside.unlink()
