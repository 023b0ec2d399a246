"""The real train step, compiled for devices that may not be here, and what the compiler says of it.

    step = trace(config, devices, tokens)      # seconds, nothing is allocated
    answer = compile_step(step, cache)         # minutes for a large model; kept in a folder

The answer is kept under a hash of the program as it goes into the compiler, its devices and the
versions: figures that are drawn from it can change without compiling again, and a change of code,
configuration or mesh that changes the program compiles anew.
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
from mova_jax.losses import microbatch, objective, ring
from mova_jax.parallel import mesh as mesh_lib
from mova_jax.training.state import TrainSpec, make_train_spec
from mova_jax.training.step import make_train_step
from mova_jax.typing import Batch, HostFrames

_UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}
# Two forms: of the allocator, and of a check before it.
_TOO_LARGE = (
    re.compile(r"Used (?P<wanted>[\d.]+)(?P<a>[KMGT]?) of (?P<there>[\d.]+)(?P<b>[KMGT]?) hbm"),
    re.compile(
        r"\((?P<wanted>[\d.]+)(?P<a>[KMGT]?)\) exceeds available HBM "
        r"\((?P<there>[\d.]+)(?P<b>[KMGT]?)\)"
    ),
)


@dataclasses.dataclass(frozen=True)
class Step:
    """A traced step and what it is for."""

    config: Config
    mesh: jax.sharding.Mesh
    traced: jax.stages.Traced
    parameters: int  # numbers in all of them
    state_bytes: float  # of the whole state, one copy
    batch_bytes: float  # of the batch on one device
    waiting_bytes: float  # of its frames that wait in the memory of the host for one device
    frozen: frozenset[str]  # towers without any trained parameter
    trips: float  # of loops whose length depends on the data, on average


@dataclasses.dataclass(frozen=True)
class CompileResult:
    """What the compiler said; bytes are those of one device."""

    fits: bool
    arguments: float = 0.0
    outputs: float = 0.0
    aliased: float = 0.0  # of the outputs, those in the place of donated arguments
    temporaries: float = 0.0
    code: float = 0.0
    wanted: float = 0.0  # by a program that does not fit, where the compiler said so
    available: float = 0.0
    flops: float = 0.0  # the compiler's own count: bodies of loops once
    bytes_accessed: float = 0.0
    message: str = ""  # of a program that does not fit
    seconds: float = 0.0  # that compiling took
    text: str = ""  # the compiled program

    @property
    def total(self) -> float:
        """Bytes on a device while the step runs."""
        return self.arguments + self.outputs - self.aliased + self.temporaries + self.code


def abstract_batch(config: Config, tokens: int) -> Batch:
    """The shapes of a global batch at the longest length of captions."""
    b, f, size = config.train.batch_size, config.data.frames, config.model.vision.image_size

    def of(*shape, dtype):
        return jax.ShapeDtypeStruct(shape, dtype)

    frames = b, f, size, size, 3
    if rows := config.train.microbatch:
        waiting = HostFrames.shape(frames, b // rows)
    return Batch(
        frames=HostFrames(of(*waiting, dtype=jnp.uint8)) if rows else of(*frames, dtype=jnp.uint8),
        frame_mask=of(b, f, dtype=bool),
        timestamps=of(b, f, dtype=jnp.float32),
        tokens=of(b, tokens, dtype=jnp.int32),
        token_mask=of(b, tokens, dtype=bool),
        video_id=of(b, dtype=jnp.int32),
    )


def trace(config: Config, devices: list[Any], tokens: int) -> Step:
    """Traces the train step of a configuration for a mesh of these devices.

    Args:
        config: with `model.text.vocab_size` set.
        devices: real ones, or those of a topology.
        tokens: l, length that captions are padded to.

    Raises:
        ValueError: when mesh or batch do not fit the devices.
    """
    mesh = mesh_lib.make_mesh(config.mesh, devices=devices)
    mesh_lib.check_batches(mesh, config)
    spec = make_train_spec(config, mesh)
    state = spec.shapes
    batch, shards = abstract_batch(config, tokens), mesh_lib.batch_shards(mesh)
    waiting = _bytes(batch.frames) if isinstance(batch.frames, HostFrames) else 0.0
    traced = make_train_step(spec, mesh).trace(state, batch)
    return Step(
        config,
        mesh,
        traced,
        parameters=sum(leaf.size for leaf in jax.tree.leaves(state.params)),
        state_bytes=_bytes(state),
        batch_bytes=(_bytes(batch) - waiting) / shards,
        waiting_bytes=waiting / shards,
        frozen=frozen_towers(spec.factors),
        trips=_trips(spec, mesh, tokens),
    )


def _trips(spec: TrainSpec, mesh: jax.sharding.Mesh, tokens: int) -> float:
    """How often the loops over chosen pairs run, from the shapes of one replica's rows."""
    config = spec.config
    rows = config.train.batch_size // mesh_lib.batch_shards(mesh)
    train = dataclasses.replace(config.train, batch_size=rows, microbatch=0)
    batch = abstract_batch(dataclasses.replace(config, train=train), tokens)

    def run(params, batch):
        model = spec.model(params)
        return model.mask_networks(), *microbatch.embeddings(model, batch)

    shapes = jax.eval_shape(run, spec.shapes.params, batch)
    group = mesh_lib.replica_group(mesh) or ring.SingleReplica()
    return objective.chunks_of_a_visit(config.losses, group, *shapes)


def _bytes(tree: Any) -> float:
    return float(sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree)))


def compile_step(step: Step, cache: str | os.PathLike | None = None) -> CompileResult:
    """Compiles a step, or reads what an earlier call was told.

    Args:
        step: from `trace`.
        cache: folder of the answers; None keeps none.

    Raises:
        Exception: what the compiler raised, but for a program that does not fit.
    """
    lowered = step.traced.lower()
    file = Path(cache) / f"{_key(step, lowered)}.json.gz" if cache else None
    if file and (kept := _read(file)):
        return kept
    start = time.perf_counter()
    with _progress("compiling"):
        try:
            result = _result(lowered.compile())
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
    """Of the packages that decide what comes out."""
    found = {}
    for name in ("jax", "jaxlib", "libtpu", "flax", "optax"):
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    return found


def _key(step: Step, lowered: jax.stages.Lowered) -> str:
    kinds = [(d.device_kind, getattr(d, "coords", None)) for d in step.mesh.devices.flat]
    parts = [lowered.as_text(), repr(kinds), repr(versions()), os.environ.get("XLA_FLAGS", "")]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:32]


def _read(file: Path) -> CompileResult | None:
    try:
        with gzip.open(file, "rt") as stream:
            return CompileResult(**json.load(stream))
    except (FileNotFoundError, EOFError, TypeError, ValueError, gzip.BadGzipFile):
        return None  # not there, or of another version of this file: compiled again


def _write(file: Path, result: CompileResult) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    aside = file.with_name(f".{file.name}.{os.getpid()}")
    with gzip.open(aside, "wt") as stream:
        json.dump(dataclasses.asdict(result), stream)
    aside.rename(file)


@contextlib.contextmanager
def _progress(what: str) -> Iterator[None]:
    """Tells on stderr how long it has been going on: one line that counts, or one a minute."""
    done, start, live = threading.Event(), time.monotonic(), sys.stderr.isatty()

    def tell():
        while not done.wait(1.0 if live else 60.0):
            seconds = int(time.monotonic() - start)
            clock = f"{seconds // 60}:{seconds % 60:02}"
            line = f"{what} {clock} (minutes for a large model)"
            print(f"\r{line}" if live else line, end="" if live else "\n", file=sys.stderr)
            sys.stderr.flush()

    thread = threading.Thread(target=tell, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
        if live:
            print("\r" + " " * 60 + "\r", end="", file=sys.stderr)
