"""LoVR: videos of 10 to 60 minutes with captions of a page, to test on; trained on LongVALE.

    python -m mova_jax.prepare lovr --videos full_videos --annotations caption_data \\
        --tokenizer CLIP --output shards/lovr
    python -m mova_jax.main --workdir=runs/lovr \\
        --config=configs/lovr.py:data=shards/lovr,init=CLIP \\
        --config.data.mixture="(('shards/longvale', 1),)"
    python -m mova_jax.evaluate --model runs/longvale --data shards/lovr --output out/lovr

LoVR has 467 videos in all: without `data.mixture`, its own train split is trained on. The last
command evaluates a run that is trained already. See docs/data.md.
"""

from ml_collections import ConfigDict

from configs import paper


def get_config(arg: str = "") -> ConfigDict:
    """The whole configuration; `arg` as in `configs/base.py`."""
    return paper.get_config(arg, videos=7_240)
