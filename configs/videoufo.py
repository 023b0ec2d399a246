"""VideoUFO: over a million clips with a detailed caption each; `prepare` makes the splits.

    python -m mova_jax.prepare videoufo --videos VideoUFO --annotations VideoUFO_csv \\
        --fps 8 --splits train=0.98,validation=0.01,test=0.01 \\
        --tokenizer CLIP --output shards/videoufo
    python -m mova_jax.main --workdir=runs/videoufo \\
        --config=configs/videoufo.py:data=shards/videoufo,init=CLIP

The paper does not say which clips it trains and tests on, so its figures cannot be compared with
those of this recipe. See docs/data.md.
"""

from ml_collections import ConfigDict

from configs import paper


def get_config(arg: str = "") -> ConfigDict:
    """The whole configuration; `arg` as in `configs/base.py`."""
    config = paper.get_config(arg, videos=1_070_000)
    config.data.short_caption_share = 0.25  # the brief captions
    config.train.checkpoint_every = 500  # steps; an epoch has over 4,000
    return config
