"""LongVALE: videos of 4 minutes on average, 7,240 to train on, 1,171 to test.

    python -m mova_jax.prepare longvale --videos VIDEOS --annotations LongVALE \\
        --tokenizer CLIP --output shards/longvale
    python -m mova_jax.main --workdir=runs/longvale \\
        --config=configs/longvale.py:data=shards/longvale,init=CLIP

Its sentences also tell what is heard, which this model cannot know. There is no validation split,
so the last checkpoint is tested. See docs/data.md.
"""

from ml_collections import ConfigDict

from configs import paper


def get_config(arg: str = "") -> ConfigDict:
    """The whole configuration; `arg` as in `configs/base.py`."""
    return paper.get_config(arg, videos=7_240)
