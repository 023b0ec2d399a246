"""UltraVideo: some 42,000 short and 17,000 long clips; `prepare` makes the splits.

    python -m mova_jax.prepare ultravideo --videos clips --annotations UltraVideo \\
        --fps 8 --splits train=0.96,validation=0.02,test=0.02 \\
        --tokenizer CLIP --output shards/ultravideo
    python -m mova_jax.main --workdir=runs/ultravideo \\
        --config=configs/ultravideo.py:data=shards/ultravideo,init=CLIP

With short.csv alone in the folder of annotations, only the short clips are used. The paper does not
say which clips it trains and tests on, so its figures cannot be compared with those of this recipe.
See docs/data.md.
"""

from ml_collections import ConfigDict

from configs import paper


def get_config(arg: str = "") -> ConfigDict:
    """The whole configuration; `arg` as in `configs/base.py`."""
    config = paper.get_config(arg, videos=40_000)
    config.data.short_caption_share = 0.25  # the brief captions
    return config
