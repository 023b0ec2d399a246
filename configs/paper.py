"""The paper's recipe on any shards: the base plus what is set below.

    python -m mova_jax.main --config=configs/paper.py:data=SHARDS,init=CLIP --workdir=runs/paper

The recipes of the data sets build on it. It starts from a trained CLIP (`init`), whose towers have
a thousandth of the learning rate of new modules. It takes the arguments of `configs/base.py`. The
paper used 8 MI210; on less hardware give a smaller `batch` and fewer `frames`.
"""

from ml_collections import ConfigDict

from configs import base
from mova_jax.config.presets import OBJECTIVES


def get_config(arg: str = "", videos: int = 10_000, epochs: int = 5) -> ConfigDict:
    """The whole configuration.

    Args:
        arg: as in `configs/base.py`; its values win over those of the recipe.
        videos: in the train split, for the number of steps.
        epochs: passes over them, where `arg` gives no `steps`.
    """
    config = base.get_config(f"model=b16,objective=paper,frames=64,batch=256,{arg}")
    train, optim = config.train, config.optim
    epoch = max(1, videos // train.batch_size)
    if "steps=" not in arg:
        train.steps = epochs * epoch
    train.image_share = 0.0  # the warm-up is a run of its own: configs/warmup.py
    train.eval_every = train.checkpoint_every = epoch
    optim.learning_rate = 1e-4
    optim.groups = OBJECTIVES["paper"]["optim.groups"]  # the towers at 1e-7
    optim.warmup_steps = train.steps // 10  # this and the next three as in CLIP4Clip
    optim.final_fraction = 0.0
    optim.weight_decay = 0.2
    optim.clip_norm = 1.0
    if config.losses.dfsm_masks == "own":
        # The harder half of a batch: the gradient of all, at half the pairs (docs/results.md).
        config.losses.hard_pairs = max(0, train.batch_size // 2 - 1)
    config.model.remat = "full"  # 256 videos of 64 frames
    config.data.short_caption_share = 0.0  # data sets with short captions set their own
    config.eval.splits = ("test",)
    return config
