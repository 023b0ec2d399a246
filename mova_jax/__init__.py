"""mova_jax: MoVA (Modular Long Video-Text Alignment) in JAX.

model = mova_jax.load("runs/base")       # docs/search.md
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mova_jax.search.library import VideoTextModel


def load(path: Any) -> "VideoTextModel":
    """Loads a trained model: a run, an export for PyTorch, or the folder of a CLIP.

    See `search/library.py` for what it does. Nothing heavy is imported before this is called.
    """
    from mova_jax.search.library import load

    return load(path)
