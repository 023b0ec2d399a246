"""Animal Kingdom, video grounding: 3,489 videos (14,995 sentences) to train on, 812 to test.

    python -m mova_jax.prepare animal_kingdom --videos VIDEOS --annotations ANNOTATIONS \\
        --fps 2 --tokenizer CLIP --output shards/animal_kingdom
    python -m mova_jax.main --workdir=runs/animal_kingdom \\
        --config=configs/animal_kingdom.py:data=shards/animal_kingdom,init=CLIP
    python -m mova_jax.evaluate --model runs/activitynet --data shards/animal_kingdom \\
        --output out/animal_kingdom

Animals in the wild; most videos last less than a minute. There is no validation split, so the last
checkpoint is tested. The last command asks how a run on other videos does here. See docs/data.md.
"""

from ml_collections import ConfigDict

from configs import paper


def get_config(arg: str = "") -> ConfigDict:
    """The whole configuration; `arg` as in `configs/base.py`."""
    return paper.get_config(arg, videos=3_489)
