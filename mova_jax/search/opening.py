"""Opens an index together with the model that made it, and looks whether it has changed."""

import os
import sys

from mova_jax.search.engine import Engine
from mova_jax.search.library import VideoTextModel, load
from mova_jax.search.query import Searcher
from mova_jax.search.scan import Scan
from mova_jax.search.store import MANIFEST, REMOVED, VERSION, VIDEOS, Index, StoreError, open_index
from mova_jax.training.setup import enable_compilation_cache


def open_searcher(
    folder: str | os.PathLike, model_path: str = "", engine_uri: str = ""
) -> Searcher:
    """An index, ready for questions.

    Args:
        folder: of the index.
        model_path: where its model is now; empty for where it was when the index was made.
        engine_uri: of an engine that has its vectors (`engine.py`); empty for an exact scan.

    Raises:
        StoreError: it is no index, or one of another model, or the engine does not have it.
        RunError, CheckpointError, WeightsError: the model cannot be read.
    """
    index = open_index(folder)
    model = load(model_path or index.manifest["model"])
    if not model.has_fingerprint(index.manifest["fingerprint"]):
        raise StoreError(
            f"{folder} was made with {index.manifest['model']}, and {model.loaded.origin} is "
            "another model, or was trained further: give the same one with --model, or make the "
            "index again"
        )
    enable_compilation_cache(model.config)
    return searcher_of(model, index, open_engine(engine_uri, index) if engine_uri else None)


def searcher_of(model: VideoTextModel, index: Index, engine: Engine | None = None) -> Searcher:
    """A model and an index that it made, and the engine that has its vectors, if one has."""
    return Searcher(model, index, Scan.of(model), engine)


def open_engine(uri: str, index: Index) -> Engine:
    """The engine that has an index, with a warning when it does not have all of it.

    Raises:
        StoreError: there is none, or it has nothing of the index.
    """
    engine = Engine(uri, index)
    if count := engine.missing(index):
        print(
            f"{count:,} of {len(index.entries):,} videos are not in the engine and will not be "
            f"found: python -m mova_jax.embed --index {index.folder} --engine {uri} uploads them",
            file=sys.stderr,
        )
    return engine


class Watch:
    """Opens an index again when videos came or went."""

    def __init__(self, folder: str | os.PathLike):
        """Remembers how the index is now."""
        self._folder = folder
        self._seen = self._stamp()

    def __call__(self) -> Index | None:
        """The index, if it has changed since the last look."""
        stamp = self._stamp()
        if stamp == self._seen:
            return None
        self._seen = stamp
        return open_index(self._folder)

    def _stamp(self) -> list[int]:
        paths = [os.path.join(self._folder, name) for name in (MANIFEST, VIDEOS, REMOVED, VERSION)]
        return [os.stat(path).st_mtime_ns for path in paths if os.path.exists(path)]
