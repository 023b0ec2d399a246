"""The base recipe: sentences find their frames, trained from nothing on the embedded data.

    python -m mova_jax.main --config=configs/base.py --workdir=runs/base

Its values are the defaults of `mova_jax/config/schema.py`, where every key is described; the same
with `--help_config` prints them. The argument string after a colon changes some of them together,
and any key can be set by name:

    --config=configs/base.py:objective=no_dfsm          an ablation row (mova_jax/config/presets.py)
    --config=configs/base.py:model=b16,frames=64        a model size, frames a video
    --config=configs/base.py:model=b16,init=CLIP        pretrained weights (mova_jax.convert)
    --config=configs/base.py:data=SHARDS                your own videos (see mova_jax.prepare)
    --config.optim.learning_rate=3e-4                   any key
"""

from ml_collections import ConfigDict

from mova_jax.config import apply, defaults, parse_argument
from mova_jax.config.presets import MODELS, OBJECTIVES


def get_config(arg: str = "") -> ConfigDict:
    """The whole configuration.

    Args:
        arg: `key=value` pairs joined by commas: `model` (tiny, b32, b16, l14, l14_336), `objective`
            (a name in `mova_jax.config.presets.OBJECTIVES`), `frames` (a video, in training and
            evaluation), `data` (a folder of shards), `init` (weights to start from), `steps`,
            `batch` (videos, over all devices and processes).
    """
    config = defaults()
    args = parse_argument(
        arg,
        model="tiny",
        objective=config.objective,
        frames=0,
        data=config.data.source,
        init=config.init_from,
        steps=config.train.steps,
        batch=config.train.batch_size,
    )
    config.objective, config.init_from = args["objective"], args["init"]
    config.data.source = args["data"]
    config.train.steps, config.train.batch_size = args["steps"], args["batch"]
    apply(config, MODELS, args["model"])
    apply(config, OBJECTIVES, args["objective"])
    if frames := args["frames"]:
        config.data.frames = config.eval.frames = config.model.frame_positions = frames
    return config
