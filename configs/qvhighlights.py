"""QVHighlights: web videos of 150 s, 7,100 to train on, 1,519 to select, 1,529 to test.

    python -m mova_jax.prepare qvhighlights --videos VIDEOS --annotations moment_detr/data \\
        --tokenizer CLIP --output shards/qvhighlights
    python -m mova_jax.main --workdir=runs/qvhighlights \\
        --config=configs/qvhighlights.py:data=shards/qvhighlights,init=CLIP

The owners keep the moments of the test set to themselves, so grounding is measured on `validation`.
See docs/data.md.
"""

from ml_collections import ConfigDict

from configs import paper


def get_config(arg: str = "") -> ConfigDict:
    """The whole configuration; `arg` as in `configs/base.py`."""
    config = paper.get_config(arg, videos=7_100)
    config.eval.splits = ("validation", "test")
    return config
