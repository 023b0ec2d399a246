"""Checkpoints of a run: the only place that knows Orbax.

    WORKDIR/checkpoints/last/STEP/    the newest save, from which a run goes on
    WORKDIR/checkpoints/best/STEP/    the best by validation, which is tested and shipped
    WORKDIR/checkpoints/tokenizer/    the vocabulary that the embeddings belong to

Each save holds `state` (step, parameters, optimizer), `data` (the state of the data iterator) and
`record` (the configuration, and for the best its score), is written in the background under a
temporary name and renamed when whole. A run killed at any moment leaves whole saves only; what
stands after `STEP` at a restart is made again by going on from the last one.
"""

import contextlib
import dataclasses
import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import orbax.checkpoint as ocp

from mova_jax.config import Config
from mova_jax.parallel import mesh as mesh_lib
from mova_jax.parallel.processes import lost_process
from mova_jax.training.state import TrainSpec, TrainState

FOLDER = "checkpoints"


class CheckpointError(Exception):
    """A checkpoint that cannot be written or read; the message says what to do."""


class Saved(NamedTuple):
    """What a checkpoint holds."""

    state: TrainState
    data: dict[str, Any]  # state of the data iterator
    record: dict[str, Any]  # {"config": ..., "score": ..., "blend_weight": ...}


class Checkpoints:
    """The last and the best checkpoint of a run; saves happen in the background."""

    def __init__(self, workdir: str | os.PathLike, config: Config):
        """Opens the checkpoints of a workdir, which are made when there are none.

        Args:
            workdir: of the run.
            config: stored with every save.

        Raises:
            CheckpointError: when the folder cannot be made.
        """
        # Orbax tells of every save at level INFO and of its plans at WARNING.
        logging.getLogger("absl").setLevel(logging.ERROR)
        self.folder = Path(workdir).resolve() / FOLDER
        self._config = dataclasses.asdict(config)
        with self._clear_errors("opened"):
            self._last = _manager(self.folder / "last")
            self._best = _manager(self.folder / "best")

    @property
    def last_step(self) -> int | None:
        """Steps that the last checkpoint has done, None without one."""
        return self._last.latest_step()

    @property
    def best_step(self) -> int | None:
        """Steps that the best checkpoint has done, None without one."""
        return self._best.latest_step()

    def save_last(self, state: TrainState, data: dict[str, Any]) -> None:
        """Starts to save the state that a restart goes on from.

        Args:
            state: of the run; may be donated as soon as this returns.
            data: state of the data iterator after as many batches as `state` has steps.

        Raises:
            CheckpointError: this save, or the one before it, could not be written.
        """
        with self._clear_errors("written"):
            # Never whole before the best one of the same step: a restart from here does not
            # validate that step again.
            self._best.wait_until_finished()
        self._save(self._last, state, data, {"config": self._config})

    def save_best(
        self, state: TrainState, data: dict[str, Any], score: float, blend_weight: float
    ) -> bool:
        """Starts to save the state when its score is above that of the best one so far.

        Going on from an earlier step comes by the same scores again, and saves nothing twice.

        Args:
            state: as for `save_last`.
            data: as for `save_last`.
            score: on validation, higher is better.
            blend_weight: of the modular score, chosen on validation.

        Returns:
            Whether it is the best.
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
        with self._clear_errors("read"):
            return self._best.restore(step, args=args)["record"]

    def restore_last(self, like: TrainState) -> Saved:
        """The last checkpoint, laid out over the devices as `like` is.

        Args:
            like: shapes, types and shardings, from `jax.eval_shape` or a state.

        Raises:
            CheckpointError: when there is none, or it is not of this shape.
        """
        return self._restore(self._last, like)

    def restore_best(self, like: TrainState) -> Saved:
        """The best checkpoint, see `restore_last`."""
        return self._restore(self._best, like)

    def wait(self) -> None:
        """Returns when all saves are on disk.

        Raises:
            CheckpointError: when one of them could not be written.
        """
        with self._clear_errors("written"):
            self._last.wait_until_finished()
            self._best.wait_until_finished()

    def close(self) -> None:
        """Waits and lets go of the threads."""
        with self._clear_errors("written"):
            self._last.close()
            self._best.close()

    def _save(self, manager, state: TrainState, data: dict, record: dict) -> None:
        step = int(state.step)
        if manager.latest_step() == step:
            return
        args = ocp.args.Composite(
            state=ocp.args.StandardSave(_as_dict(state)),
            data=ocp.args.JsonSave(data),
            record=ocp.args.JsonSave(record),
        )
        with self._clear_errors("written"):
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
        with self._clear_errors("read"):
            saved = manager.restore(step, args=args)
        return Saved(TrainState(**saved["state"]), saved["data"], saved["record"])

    def _clear_errors(self, what: str) -> contextlib.AbstractContextManager[None]:
        return _clear_errors(self.folder, what)


def is_started(workdir: str | os.PathLike) -> bool:
    """Whether a run in this workdir has a checkpoint to go on from."""
    return any(path.name.isdecimal() for path in (Path(workdir) / FOLDER / "last").glob("*"))


class SavedModel(NamedTuple):
    """What of a checkpoint is needed to use its model."""

    params: Any  # `TrainState.weights`
    step: int  # steps done
    record: dict[str, Any]  # see `Saved`
    which: str  # best or last


def restore_model(workdir: str | os.PathLike, like: TrainState) -> SavedModel:
    """The weights of a run's best checkpoint, of its last one where none was validated.

    The optimizer's state is not read, so it takes a third of the memory, and a checkpoint stays
    readable when the optimizer of a later version has another state. Nothing is written.

    Args:
        workdir: of the run.
        like: shapes, types and shardings; of all but its `opt_state`.

    Raises:
        CheckpointError: when there is none, or it is not of this shape.
    """
    folder = Path(workdir).resolve() / FOLDER
    logging.getLogger("absl").setLevel(logging.ERROR)
    for which in ("best", "last"):
        if not (folder / which).is_dir():
            continue
        with _clear_errors(folder, "read"), _manager(folder / which, read_only=True) as manager:
            if (step := manager.latest_step()) is None:
                continue
            item = _as_dict(dataclasses.replace(like, opt_state=None))
            restore_args = ocp.checkpoint_utils.construct_restore_args(item)
            args = ocp.args.Composite(
                state=ocp.args.PyTreeRestore(item, restore_args, partial_restore=True),
                record=ocp.args.JsonRestore(),
            )
            saved = manager.restore(step, args=args)
        state = TrainState(opt_state=None, **saved["state"])
        return SavedModel(state.weights, step, saved["record"], which)
    raise CheckpointError(f"{folder} holds no checkpoint: train first, or give another workdir.")


@contextlib.contextmanager
def _clear_errors(folder: Path, what: str) -> Iterator[None]:
    """Orbax and the file system raise many kinds of errors; users see one."""
    try:
        yield
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        if lost_process(error):
            raise  # nothing is wrong with the checkpoint, and the same command goes on
        advice = "the saves before it are whole; make room or correct the path, and start again"
        if what == "read":
            advice = "start in another workdir, or go back to the code that wrote it"
        reason = str(error).partition("\n")[0][:300] or type(error).__name__
        if "No space left" in str(error):
            reason = "no space is left on the device"
        raise CheckpointError(
            f"a checkpoint in {folder} could not be {what}: {reason} ({advice})"
        ) from error


def _manager(folder: Path, read_only: bool = False) -> ocp.CheckpointManager:
    if read_only:
        options = ocp.CheckpointManagerOptions(read_only=True)
    else:
        folder.mkdir(parents=True, exist_ok=True)
        options = ocp.CheckpointManagerOptions(max_to_keep=1, enable_async_checkpointing=True)
    return ocp.CheckpointManager(folder, options=options, item_names=("state", "data", "record"))


def _as_dict(state: TrainState) -> dict[str, Any]:
    # Names on disk that do not depend on how the class is registered with JAX; what a run does not
    # have is not there, so that runs from before it was thought of are read.
    named = {field.name: getattr(state, field.name) for field in dataclasses.fields(state)}
    return {name: value for name, value in named.items() if value is not None}


def abstract_state(spec: TrainSpec, mesh: jax.sharding.Mesh) -> TrainState:
    """Shapes, types and shardings of a recipe's state on a mesh, without allocating it."""
    return jax.tree.map(
        lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
        spec.shapes,
        mesh_lib.state_sharding(mesh, spec.shapes),
    )
