"""Opens an index together with the model that made it, and looks whether it has changed."""

import os

from mova_jax.search.library import VideoTextModel, load
from mova_jax.search.query import Searcher
from mova_jax.search.scan import Scan
from mova_jax.search.store import MANIFEST, REMOVED, VERSION, VIDEOS, Index, StoreError, open_index
from mova_jax.training.setup import enable_compilation_cache


def open_searcher(folder: str | os.PathLike, model_path: str = "") -> Searcher:
    """An index, ready for questions.

    Args:
        folder: of the index.
        model_path: where its model is now; empty for where it was when the index was made.

    Raises:
        StoreError: it is no index, or one of another model.
        RunError, CheckpointError, WeightsError: the model cannot be read.
    """
    index = open_index(folder)
    model = load(model_path or index.manifest["model"])
    if model.fingerprint != index.manifest["fingerprint"]:
        raise StoreError(
            f"{folder} was made with {index.manifest['model']}, and {model.loaded.path} is another "
            "model, or was trained further: give the same one with --model, or make the index again"
        )
    enable_compilation_cache(model.config)
    return searcher_of(model, index)


def searcher_of(model: VideoTextModel, index: Index) -> Searcher:
    """A model and an index that it made."""
    return Searcher(model, index, Scan.of(model))


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
