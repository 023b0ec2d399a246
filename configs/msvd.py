"""MSVD: 1,200 clips to train on, 100 to select, 670 to test, about 40 captions a clip.

    python -m mova_jax.prepare msvd --videos YouTubeClips --annotations msvd_data \\
        --fps 6 --tokenizer CLIP --output shards/msvd
    python -m mova_jax.main --workdir=runs/msvd --config=configs/msvd.py:data=shards/msvd,init=CLIP

Clips last about 10 seconds, so that six frames a second give about 64. An epoch goes over every
pair of clip and caption, as in other work. Every caption of a clip is a query, in validation and
test. See docs/data.md.
"""

from ml_collections import ConfigDict

from configs import paper

PAIRS = 40 * 1_200  # of clip and caption, about


def get_config(arg: str = "") -> ConfigDict:
    """The whole configuration; `arg` as in `configs/base.py`."""
    config = paper.get_config(arg, videos=PAIRS)
    config.data.short_caption_share = 39 / 40  # so that every caption has the same chance
    return config
