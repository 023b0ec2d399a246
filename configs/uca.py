"""UCA, surveillance: 1,165 videos to train on, 379 to select, 310 to test.

    python -m mova_jax.prepare uca --videos UCF_Crimes --annotations "UCF Annotation/json" \\
        --tokenizer CLIP --output shards/uca
    python -m mova_jax.main --workdir=runs/uca \\
        --config=configs/uca.py:data=shards/uca,init=CLIP
    python -m mova_jax.evaluate --model runs/activitynet --data shards/uca --output out/uca

A domain that web videos do not show, and long: 108 of the videos last 10 minutes or more. The
shards have one frame a second, of which 64 are drawn. The last command asks how a run on other
videos does here. See docs/data.md.
"""

from ml_collections import ConfigDict

from configs import paper


def get_config(arg: str = "") -> ConfigDict:
    """The whole configuration; `arg` as in `configs/base.py`."""
    return paper.get_config(arg, videos=1_165)
