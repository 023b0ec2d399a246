"""Compiles the real train step for given devices and reads the compiler's figures.

    step = trace(config, devices, tokens)      # seconds, nothing is allocated
    result = compile_step(step, cache)         # minutes for a large model; cached on disk

Results are cached under a hash of the lowered program, its devices and the library versions. A
change of code, configuration or mesh that changes the program compiles again; a change of how the
figures are presented does not.
"""

import contextlib
import dataclasses
import gzip
import hashlib
import json
import os
import re
import sys
import threading
import time
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from mova_jax.config import Config
from mova_jax.cost.flops import frozen_towers
from mova_jax.data.pipeline.batching import settings_of
from mova_jax.losses import microbatch
from mova_jax.losses.hard_sfdm import chunks_per_visit
from mova_jax.parallel import collectives, sharding
from mova_jax.parallel import mesh as mesh_lib
from mova_jax.training.state import TrainSpec, make_train_spec
from mova_jax.training.step import make_train_step
from mova_jax.typing import Batch, HostFrames
from mova_jax.utils.atomic import replacing

_UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}
# The two messages: from the allocator, and from a check that runs before it.
_TOO_LARGE = (
    re.compile(r"Used (?P<wanted>[\d.]+)(?P<a>[KMGT]?) of (?P<there>[\d.]+)(?P<b>[KMGT]?) hbm"),
    re.compile(
        r"\((?P<wanted>[\d.]+)(?P<a>[KMGT]?)\) exceeds available HBM "
        r"\((?P<there>[\d.]+)(?P<b>[KMGT]?)\)"
    ),
)


@dataclasses.dataclass(frozen=True)
class Step:
    """A traced step, and the sizes that are known before it is compiled."""

    config: Config
    mesh: jax.sharding.Mesh
    traced: jax.stages.Traced
    parameters: int  # how many numbers
    state_bytes: float  # of one full copy of the state
    batch_bytes: float  # of the batch, on one device
    host_bytes: float  # of the frames offloaded to host memory, for one device
    frozen: frozenset[str]  # towers without any trained parameter
    parts: tuple[int, int]  # number and length of the parts of a caption; 0 without
    trips: float  # mean trip count of loops whose length depends on the data


@dataclasses.dataclass(frozen=True)
class CompileResult:
    """The compiler's figures; bytes are those of one device."""

    fits: bool
    arguments: float = 0.0
    outputs: float = 0.0
    aliased: float = 0.0  # outputs that reuse the memory of donated arguments
    temporaries: float = 0.0
    code: float = 0.0
    wanted: float = 0.0  # by a program that does not fit, where the compiler reports it
    available: float = 0.0
    flops: float = 0.0  # the compiler's own count, with loop bodies counted once
    bytes_accessed: float = 0.0
    message: str = ""  # the compiler's, for a program that does not fit
    seconds: float = 0.0  # spent compiling
    text: str = ""  # the compiled program

    @property
    def total(self) -> float:
        """Bytes on a device while the step runs."""
        return self.arguments + self.outputs - self.aliased + self.temporaries + self.code


def abstract_batch(config: Config, tokens: int) -> Batch:
    """The shapes of a global batch whose captions are padded to `tokens`.

    Each has `data.parts` parts of the longest length, as batches of several processes have.
    """
    b, f, size = config.train.batch_size, config.data.frames, config.model.vision.image_size

    def of(*shape, dtype):
        return jax.ShapeDtypeStruct(shape, dtype)

    frames = b, f, size, size, 3
    if rows := config.train.microbatch:
        offloaded = HostFrames.shape(frames, b // rows)
    return Batch(
        frames=HostFrames(of(*offloaded, dtype=jnp.uint8))
        if rows
        else of(*frames, dtype=jnp.uint8),
        frame_mask=of(b, f, dtype=bool),
        timestamps=of(b, f, dtype=jnp.float32),
        tokens=of(b, tokens, dtype=jnp.int32),
        token_mask=of(b, tokens, dtype=bool),
        video_id=of(b, dtype=jnp.int32),
        **_abstract_parts(config),
    )


def _abstract_parts(config: Config) -> dict[str, jax.ShapeDtypeStruct]:
    """The fields of parts in a batch, none where captions are not divided."""
    if not (p := config.data.parts):
        return {}
    t = settings_of(config, config.data.frames).padding.part_tokens[-1]
    shape = config.train.batch_size, p, t
    return {
        "part_tokens": jax.ShapeDtypeStruct(shape, jnp.int32),
        "part_token_mask": jax.ShapeDtypeStruct(shape, bool),
    }


def trace(config: Config, devices: list[Any], tokens: int) -> Step:
    """Traces the train step of a configuration for a mesh of these devices.

    Args:
        config: with `model.text.vocab_size` set.
        devices: real ones, or those of a topology.
        tokens: l, the length that captions are padded to.

    Raises:
        ValueError: when mesh or batch do not fit the devices.
    """
    mesh = mesh_lib.make_mesh(config.mesh, devices=devices)
    sharding.check_run(mesh, config)
    spec = make_train_spec(config, mesh)
    state = spec.shapes
    batch, shards = abstract_batch(config, tokens), sharding.batch_shards(mesh)
    offloaded = _bytes(batch.frames) if isinstance(batch.frames, HostFrames) else 0.0
    traced = make_train_step(spec, mesh).trace(state, batch)
    return Step(
        config,
        mesh,
        traced,
        parameters=sum(leaf.size for leaf in jax.tree.leaves(state.params)),
        state_bytes=_bytes(state),
        batch_bytes=(_bytes(batch) - offloaded) / shards,
        host_bytes=offloaded / shards,
        frozen=frozen_towers(spec.factors),
        parts=(0, 0) if batch.part_tokens is None else batch.part_tokens.shape[1:],
        trips=_trips(spec, mesh, tokens),
    )


def _trips(spec: TrainSpec, mesh: jax.sharding.Mesh, tokens: int) -> float:
    """Mean trip count of the loops over hard pairs, from the shapes of one replica's rows."""
    config = spec.config
    rows = config.train.batch_size // sharding.batch_shards(mesh)
    train = dataclasses.replace(config.train, batch_size=rows, microbatch=0)
    batch = abstract_batch(dataclasses.replace(config, train=train), tokens)

    def run(params, batch):
        model = spec.model(params)
        return model.mask_networks(), *microbatch.embeddings(model, batch)

    shapes = jax.eval_shape(run, spec.shapes.params, batch)
    group = collectives.replica_group(mesh)
    return chunks_per_visit(config.losses, group, *shapes)


def _bytes(tree: Any) -> float:
    return float(sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree)))


def compile_step(
    step: Step,
    cache: str | os.PathLike | None = None,
    options: dict[str, bool] | None = None,
) -> CompileResult:
    """Compiles a step, or reads the cached result of an earlier call.

    Args:
        step: from `trace`.
        cache: folder of cached results; None disables the cache.
        options: XLA's, from `Topology.compiler_options`.

    Returns:
        The figures. Only TPU compilers refuse a program that is too large; for other devices
        compare `total` with their memory.

    Raises:
        Exception: a compiler error other than a program that does not fit.
    """
    lowered = step.traced.lower()
    file = Path(cache) / f"{_key(step, lowered, options)}.json.gz" if cache else None
    if file and (cached := _read(file)):
        return cached
    start = time.perf_counter()
    with _progress("compiling"):
        try:
            result = _result(lowered.compile(compiler_options=options or None))
        except jax.errors.JaxRuntimeError as error:
            if "RESOURCE_EXHAUSTED" not in str(error):
                raise
            result = _too_large(str(error))
    result = dataclasses.replace(result, seconds=time.perf_counter() - start)
    if file:
        _write(file, result)
    return result


def _result(compiled: jax.stages.Compiled) -> CompileResult:
    memory, cost = compiled.memory_analysis(), compiled.cost_analysis() or {}
    return CompileResult(
        fits=True,
        arguments=memory.argument_size_in_bytes,
        outputs=memory.output_size_in_bytes,
        aliased=memory.alias_size_in_bytes,
        temporaries=memory.temp_size_in_bytes,
        code=memory.generated_code_size_in_bytes,
        flops=cost.get("flops", 0.0),
        bytes_accessed=cost.get("bytes accessed", 0.0),
        text=compiled.as_text(),
    )


def _too_large(message: str) -> CompileResult:
    for form in _TOO_LARGE:
        if match := form.search(message):
            wanted = float(match["wanted"]) * _UNITS[match["a"]]
            there = float(match["there"]) * _UNITS[match["b"]]
            return CompileResult(False, wanted=wanted, available=there, message=message)
    return CompileResult(False, message=message)


def versions() -> dict[str, str]:
    """Versions of the packages that the compiled program depends on."""
    found = {}
    for name in ("jax", "jaxlib", "libtpu", "jax-cuda12-plugin", "flax", "optax"):
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    return found


def _key(step: Step, lowered: jax.stages.Lowered, options: dict[str, bool] | None) -> str:
    kinds = [(d.device_kind, getattr(d, "coords", None)) for d in step.mesh.devices.flat]
    flags = os.environ.get("XLA_FLAGS", "") + (repr(options) if options else "")
    parts = [lowered.as_text(), repr(kinds), repr(versions()), flags]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:32]


def _read(file: Path) -> CompileResult | None:
    try:
        with gzip.open(file, "rt") as stream:
            return CompileResult(**json.load(stream))
    except (FileNotFoundError, EOFError, TypeError, ValueError, gzip.BadGzipFile):
        return None  # missing, or written by another version: compile again


def _write(file: Path, result: CompileResult) -> None:
    with replacing(file) as aside, gzip.open(aside, "wt") as stream:
        json.dump(dataclasses.asdict(result), stream)


@contextlib.contextmanager
def _progress(what: str) -> Iterator[None]:
    """Shows the elapsed time on stderr: one line that counts up, or a line a minute in a log."""
    done, start, live = threading.Event(), time.monotonic(), sys.stderr.isatty()

    def show():
        while not done.wait(1.0 if live else 60.0):
            seconds = int(time.monotonic() - start)
            clock = f"{seconds // 60}:{seconds % 60:02}"
            line = f"{what} {clock} (minutes for a large model)"
            print(f"\r{line}" if live else line, end="" if live else "\n", file=sys.stderr)
            sys.stderr.flush()

    thread = threading.Thread(target=show, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
        if live:
            print("\r" + " " * 60 + "\r", end="", file=sys.stderr)
