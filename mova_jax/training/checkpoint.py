"""Checkpoints of a run: the only place that knows Orbax.

    WORKDIR/checkpoints/last/STEP/    the newest save, from which a run resumes
    WORKDIR/checkpoints/best/STEP/    the best by validation, which is tested and exported
    WORKDIR/checkpoints/tokenizer/    the tokenizer of the run

Each save holds `state` (step, parameters, optimizer), `data` (the state of the data iterator) and
`record` (the config, and for the best its score). It is written in the background under a temporary
name and renamed when complete, so a run killed at any moment leaves complete saves only. A restart
repeats the steps after the last save. Those of a workdir in a bucket (`workdir.py`) are there, and
count when Orbax has written `commit_success.txt` into them.

`record` has checksums of the rest (`utils/checksum.py`). A checkpoint that was damaged on its
disk is refused by its name, and nothing is trained on or tested with it.
"""

import contextlib
import dataclasses
import logging
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import orbax.checkpoint as ocp
from etils import epath

from mova_jax.config import Config
from mova_jax.data.storage import is_url
from mova_jax.parallel import sharding
from mova_jax.parallel.processes import lost_process
from mova_jax.training.state import TrainSpec, TrainState
from mova_jax.training.workdir import checkpoints_folder, complete_saves
from mova_jax.utils.checksum import differing, json_checksum, state_checksums


class CheckpointError(Exception):
    """A checkpoint cannot be written or read; the message says what to do."""


class Saved(NamedTuple):
    """The contents of a checkpoint."""

    state: TrainState
    data: dict[str, Any]  # state of the data iterator
    record: dict[str, Any]  # {"config": ..., "score": ..., "blend_weight": ...}


class Checkpoints:
    """The last and the best checkpoint of a run; saves in the background."""

    def __init__(
        self,
        workdir: str | os.PathLike,
        config: Config,
        publish: Callable[[], None] = lambda: None,
    ):
        """Opens the checkpoints of a workdir; makes their folders when there are none.

        Args:
            workdir: of the run.
            config: stored with every save.
            publish: called before each save from which a restart resumes, see `open_workdir`.

        Raises:
            CheckpointError: a folder cannot be made.
        """
        _quiet_orbax()
        self.folder, self._publish = checkpoints_folder(workdir), publish
        self._config = dataclasses.asdict(config)
        with _reraise_as_checkpoint_error(self.folder, "opened"):
            self._last = _manager(self.folder / "last")
            self._best = _manager(self.folder / "best")

    @property
    def last_step(self) -> int | None:
        """Step of the last checkpoint, None without one."""
        return self._last.latest_step()

    @property
    def best_step(self) -> int | None:
        """Step of the best checkpoint, None without one."""
        return self._best.latest_step()

    def save_last(self, state: TrainState, data: dict[str, Any]) -> None:
        """Starts to save the state from which a restart resumes.

        Args:
            state: of the run; may be donated as soon as this returns.
            data: state of the data iterator after the batch of the state's step.

        Raises:
            CheckpointError: this save, or the one before it, could not be written.
        """
        with _reraise_as_checkpoint_error(self.folder, "written"):
            # The best one of the same step has to be complete first: a restart from here does
            # not validate that step again.
            self._best.wait_until_finished()
        self._publish()
        self._save(self._last, state, data, {"config": self._config})

    def save_best(
        self, state: TrainState, data: dict[str, Any], score: float, blend_weight: float
    ) -> bool:
        """Starts to save the state when its score is above that of the best one so far.

        A run that resumes from an earlier step sees the same scores again and saves nothing twice.

        Args:
            state: as for `save_last`.
            data: as for `save_last`.
            score: on validation, higher is better.
            blend_weight: of the modular score, chosen on validation.

        Returns:
            Whether it is the best so far.
        """
        if (best := self.best_record()) is not None and score <= best["score"]:
            return False
        record = {"config": self._config, "score": score, "blend_weight": blend_weight}
        self._save(self._best, state, data, record)
        return True

    def best_record(self) -> dict[str, Any] | None:
        """`score` and `blend_weight` of the best checkpoint, None without one."""
        self.wait()
        if (step := self._best.latest_step()) is None:
            return None
        args = ocp.args.Composite(record=ocp.args.JsonRestore())
        with _reraise_as_checkpoint_error(self.folder / "best", "read"):
            record = self._best.restore(step, args=args)["record"]
        _check(self.folder / "best" / str(step), {}, record)
        return record

    def restore_last(self, like: TrainState) -> Saved:
        """Restores the last checkpoint with the shardings of `like`.

        Args:
            like: shapes, types and shardings, from `abstract_state` or a state.

        Raises:
            CheckpointError: there is none, or its shapes are others.
        """
        return self._restore(self._last, like)

    def restore_best(self, like: TrainState) -> Saved:
        """Restores the best checkpoint, see `restore_last`."""
        return self._restore(self._best, like)

    def wait(self) -> None:
        """Returns when all saves are on disk.

        Raises:
            CheckpointError: one of them could not be written.
        """
        with _reraise_as_checkpoint_error(self.folder, "written"):
            self._last.wait_until_finished()
            self._best.wait_until_finished()

    def close(self) -> None:
        """Waits for the saves and ends their threads."""
        with _reraise_as_checkpoint_error(self.folder, "written"):
            self._last.close()
            self._best.close()

    def _save(self, manager, state: TrainState, data: dict, record: dict) -> None:
        step = int(state.step)
        if manager.latest_step() == step:
            return
        fields = _as_dict(state)
        record["checksums"] = state_checksums(fields) | _json_checksums(data, record)
        args = ocp.args.Composite(
            state=ocp.args.StandardSave(fields),
            data=ocp.args.JsonSave(data),
            record=ocp.args.JsonSave(record),
        )
        with _reraise_as_checkpoint_error(self.folder, "written"):
            manager.save(step, args=args, force=True)

    def _restore(self, manager, like: TrainState) -> Saved:
        self.wait()
        step = manager.latest_step()
        if step is None:
            raise CheckpointError(f"{manager.directory} holds no checkpoint: train first.")
        args = ocp.args.Composite(
            state=ocp.args.StandardRestore(_as_dict(like)),
            data=ocp.args.JsonRestore(),
            record=ocp.args.JsonRestore(),
        )
        place = self.folder / manager.directory.name / str(step)
        with _reraise_as_checkpoint_error(place, "read"):
            saved = manager.restore(step, args=args)
        _check(place, saved["state"], saved["record"], saved["data"])
        return Saved(TrainState(**saved["state"]), saved["data"], saved["record"])


class SavedModel(NamedTuple):
    """The part of a checkpoint that its model needs."""

    params: Any  # `TrainState.weights`
    step: int
    record: dict[str, Any]  # see `Saved`
    which: str  # best or last


def restore_model(workdir: str | os.PathLike, like: TrainState) -> SavedModel:
    """Restores the weights of a run's best checkpoint, or of its last one when none was validated.

    The optimizer's state is not read: this takes a third of the memory, and a checkpoint stays
    readable when a later version has another optimizer. Writes nothing.

    Args:
        workdir: of the run.
        like: shapes, types and shardings; its `opt_state` is ignored.

    Raises:
        CheckpointError: there is no checkpoint, or its shapes are others.
    """
    folder = checkpoints_folder(workdir)
    _quiet_orbax()
    for which in ("best", "last"):
        with _reraise_as_checkpoint_error(folder, "read"):
            if not (folder / which).is_dir():
                continue
        with (
            _reraise_as_checkpoint_error(folder / which, "read"),
            _manager(folder / which, read_only=True) as manager,
        ):
            if (step := manager.latest_step()) is None:
                continue
            item = _as_dict(dataclasses.replace(like, opt_state=None))
            restore_args = ocp.checkpoint_utils.construct_restore_args(item)
            args = ocp.args.Composite(
                state=ocp.args.PyTreeRestore(item, restore_args, partial_restore=True),
                record=ocp.args.JsonRestore(),
            )
            saved = manager.restore(step, args=args)
        _check(folder / which / str(step), saved["state"], saved["record"])
        state = TrainState(opt_state=None, **saved["state"])
        return SavedModel(state.weights, step, saved["record"], which)
    raise CheckpointError(f"{folder} holds no checkpoint: train first, or give another workdir.")


def _quiet_orbax() -> None:
    """Drops what Orbax logs: every save, its plans, and stacks of errors that it raises, too."""
    logger = logging.getLogger("absl")
    logger.setLevel(logging.ERROR)
    logger.addFilter(_is_not_of_orbax)
    if sys.excepthook is sys.__excepthook__:
        sys.excepthook = _excepthook


def _excepthook(kind, error, trace) -> None:
    """Hides stacks of parts that TensorStore reads after Orbax gave a damaged checkpoint up."""
    if str(error) != "Event loop is closed":
        sys.__excepthook__(kind, error, trace)


def _is_not_of_orbax(record: logging.LogRecord) -> bool:
    return "orbax" not in record.pathname


def _json_checksums(data: dict[str, Any] | None, record: dict[str, Any]) -> dict[str, int]:
    """Checksums of what is saved as JSON; `data` may be missing."""
    about = {name: value for name, value in record.items() if name != "checksums"}
    return {"record": json_checksum(about)} | (
        {} if data is None else {"data": json_checksum(data)}
    )


def _check(
    place: Path, fields: dict[str, Any], record: dict[str, Any], data: dict[str, Any] | None = None
) -> None:
    """Compares a checkpoint with the checksums that it was saved with; older ones have none.

    Raises:
        CheckpointError: names the checkpoint and what is damaged in it.
    """
    saved = record.get("checksums")
    if saved is None:
        return
    found = state_checksums(fields) | _json_checksums(data, record)
    if damaged := differing(saved, found):
        raise CheckpointError(
            f"{place} is damaged: {', '.join(damaged)} differ from what was saved. {_advice(place)}"
        )


def _advice(place: Path | epath.Path) -> str:
    """What to do about a checkpoint that cannot be read, or is damaged."""
    which = place.name if place.name in ("best", "last") else place.parent.name
    folder = place.parents[1] if place.name.isdecimal() else place.parent
    tool = "gcloud storage " if is_url(place) else ""
    if which == "last" and (others := complete_saves(folder / "best")):
        there = others[-1]
        return (
            f"Put the best one in its place, and the same command goes on from step {there.name}: "
            f"{tool}rm -r {folder / 'last'}/*; {tool}cp -r {there} {folder / 'last'}"
        )
    if which == "best" and complete_saves(folder / "last"):
        return f"Delete {folder / 'best'}, and the last checkpoint is used in its place."
    return "There is no other checkpoint: start in another workdir."


@contextlib.contextmanager
def _reraise_as_checkpoint_error(folder: Path | epath.Path, action: str) -> Iterator[None]:
    """Turns the many errors of Orbax and the file system into one: "could not be `action`"."""
    try:
        yield
    except Exception as error:
        known = isinstance(error, OSError | ValueError | KeyError | RuntimeError)
        # The libraries of buckets have errors of their own; a lost process is none of a checkpoint.
        if lost_process(error) or not (known or is_url(folder)):
            raise
        advice = "The saves before it are whole; make room or correct the path, and start again."
        if action == "read":
            advice = f"Go back to the code that wrote it, or, if it is damaged: {_advice(folder)}"
        reason = str(error).partition("\n")[0][:300] or type(error).__name__
        if "No space left" in str(error):
            reason = "no space is left on the device"
        raise CheckpointError(
            f"a checkpoint in {folder} could not be {action}: {reason}. {advice}"
        ) from error


def _manager(folder: Path | epath.Path, read_only: bool = False) -> ocp.CheckpointManager:
    if read_only:
        options = ocp.CheckpointManagerOptions(read_only=True)
    else:
        folder.mkdir(parents=True, exist_ok=True)
        options = ocp.CheckpointManagerOptions(max_to_keep=1, enable_async_checkpointing=True)
    return ocp.CheckpointManager(folder, options=options, item_names=("state", "data", "record"))


def _as_dict(state: TrainState) -> dict[str, Any]:
    # The names on disk are those of the fields, however the class is registered with JAX. A field
    # that is None is left out, so that checkpoints written before the field existed can be read.
    named = {field.name: getattr(state, field.name) for field in dataclasses.fields(state)}
    return {name: value for name, value in named.items() if value is not None}


def abstract_state(spec: TrainSpec, mesh: jax.sharding.Mesh) -> TrainState:
    """Shapes, types and shardings of a run's state on a mesh; allocates nothing."""
    return jax.tree.map(
        lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
        spec.shapes,
        sharding.state_sharding(mesh, spec.shapes),
    )
