"""MSR-VTT, 9k / 1k-A: 9,000 clips with 20 captions each to train on, 1,000 with one each to test.

    python -m mova_jax.prepare msrvtt --videos MSRVTT_Videos --annotations msrvtt_data \\
        --fps 4 --tokenizer CLIP --output shards/msrvtt
    python -m mova_jax.main --workdir=runs/msrvtt \\
        --config=configs/msrvtt.py:data=shards/msrvtt,init=CLIP

`prepare msrvtt_full` makes the owner's splits (6,513, 497 and 2,990) for the same config; its
shards make every caption a query. Clips last about 15 seconds, so that four frames a second give
about 64. 9k / 1k-A has no validation split, so the last checkpoint is tested. See docs/data.md.
"""

from ml_collections import ConfigDict

from configs import paper

PAIRS = 20 * 9_000  # of clip and caption


def get_config(arg: str = "") -> ConfigDict:
    """The whole configuration; `arg` as in `configs/base.py`."""
    config = paper.get_config(arg, videos=PAIRS)
    config.data.short_caption_share = 19 / 20  # so that every caption has the same chance
    return config
