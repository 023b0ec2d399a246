"""DiDeMo: paragraph to video, 8,395 videos to train on, 1,065 to select, 1,004 to test.

    python -m mova_jax.prepare didemo --videos VIDEOS --annotations LocalizingMoments/data \\
        --fps 2 --tokenizer CLIP --output shards/didemo
    python -m mova_jax.main --workdir=runs/didemo \\
        --config=configs/didemo.py:data=shards/didemo,init=CLIP

Videos last 30 seconds, so that two frames a second give nearly 64. See docs/data.md.
"""

from ml_collections import ConfigDict

from configs import paper


def get_config(arg: str = "") -> ConfigDict:
    """The whole configuration; `arg` as in `configs/base.py`."""
    return paper.get_config(arg, videos=8_395)
