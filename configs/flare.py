"""FLARE: 399 videos of 10 to 60 minutes, a test set; trained on LongVALE.

    python -m mova_jax.prepare flare --videos VIDEOS --annotations FLARE \\
        --tokenizer CLIP --output shards/flare
    python -m mova_jax.main --workdir=runs/flare \\
        --config=configs/flare.py:data=shards/flare,init=CLIP \\
        --config.data.mixture="(('shards/longvale', 1),)"
    python -m mova_jax.evaluate --model runs/longvale --data shards/flare --output out/flare

FLARE has no train split, so `data.mixture` names the shards to train on; the last command
evaluates a run that is trained already. See docs/data.md.
"""

from ml_collections import ConfigDict

from configs import paper


def get_config(arg: str = "") -> ConfigDict:
    """The whole configuration; `arg` as in `configs/base.py`."""
    return paper.get_config(arg, videos=7_240)
