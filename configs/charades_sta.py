"""Charades-STA: activities at home, 5,338 videos (12,408 sentences) to train on, 1,334 to test.

    python -m mova_jax.prepare charades_sta --videos Charades_v1_480 --annotations ANNOTATIONS \\
        --fps 2 --tokenizer CLIP --output shards/charades_sta
    python -m mova_jax.main --workdir=runs/charades_sta \\
        --config=configs/charades_sta.py:data=shards/charades_sta,init=CLIP

Videos last about 30 seconds, so that two frames a second give nearly 64. There is no validation
split, so the last checkpoint is tested. See docs/data.md.
"""

from ml_collections import ConfigDict

from configs import paper


def get_config(arg: str = "") -> ConfigDict:
    """The whole configuration; `arg` as in `configs/base.py`."""
    return paper.get_config(arg, videos=5_338)
