"""LSMDC 2016: about 101,000 clips of movies to train on, 7,408 sentences to select, 1,000 to test.

    python -m mova_jax.prepare lsmdc --videos LSMDC_Videos --annotations lsmdc_data \\
        --fps 8 --tokenizer CLIP --output shards/lsmdc
    python -m mova_jax.main --workdir=runs/lsmdc \\
        --config=configs/lsmdc.py:data=shards/lsmdc,init=CLIP

Clips last 2 to about 10 seconds: 32 frames are drawn from eight a second. See docs/data.md.
"""

from ml_collections import ConfigDict

from configs import paper


def get_config(arg: str = "") -> ConfigDict:
    """The whole configuration; `arg` as in `configs/base.py`."""
    return paper.get_config(f"frames=32,{arg}", videos=101_079)
