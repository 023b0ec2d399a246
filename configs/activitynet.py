"""ActivityNet Captions: paragraph to video, 10,009 videos to train on, 4,917 (val_1) to test.

    python -m mova_jax.prepare activitynet --videos VIDEOS --annotations CAPTIONS \\
        --tokenizer CLIP --output shards/activitynet
    python -m mova_jax.main --workdir=runs/activitynet \\
        --config=configs/activitynet.py:data=shards/activitynet,init=CLIP

There is no validation split, so the last checkpoint is tested. The shards have one frame a second,
of which 64 are drawn. See docs/data.md.
"""

from ml_collections import ConfigDict

from configs import paper


def get_config(arg: str = "") -> ConfigDict:
    """The whole configuration; `arg` as in `configs/base.py`."""
    return paper.get_config(arg, videos=10_009)
