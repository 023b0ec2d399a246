"""FLARE: 399 videos of 10 to 60 minutes, a test set; trained on LongVALE.

    python -m mova_jax.prepare flare --videos VIDEOS --annotations FLARE \\
        --tokenizer CLIP --output shards/flare
    python -m mova_jax.main --workdir=runs/flare \\
        --config=configs/flare.py:data=shards/flare,init=CLIP \\
        --config.data.mixture="(('shards/longvale', 1),)"

FLARE has no train split, so the last flag names the shards to train on. See docs/data.md.
"""

from ml_collections import ConfigDict

from configs import paper


def get_config(arg: str = "") -> ConfigDict:
    """The whole configuration; `arg` as in `configs/base.py`."""
    return paper.get_config(arg, videos=7_240)
