"""The warm-up on image-caption data: ShareGPT4V, each image a video of one frame.

    python -m mova_jax.prepare sharegpt4v --videos data --annotations data/sharegpt4v \\
        --splits train=0.998,validation=0.002 --tokenizer CLIP --output shards/sharegpt4v
    python -m mova_jax.main --workdir=runs/warmup \\
        --config=configs/warmup.py:data=shards/sharegpt4v,init=CLIP
    python -m mova_jax.convert export runs/warmup out/warmup --to pytorch
    python -m mova_jax.main --workdir=runs/activitynet \\
        --config=configs/activitynet.py:data=shards/activitynet,init=out/warmup/pytorch

The objective is SmartCLIP's, 10 (sidm + dism) + 2 |m|; for one frame these are sfdm and dfsm. Two
things differ: SmartCLIP draws a random number of a caption's sentences, and decays the towers'
weights only. See docs/data.md.
"""

from ml_collections import ConfigDict

from configs import paper


def get_config(arg: str = "") -> ConfigDict:
    """The whole configuration; `arg` as in `configs/base.py`."""
    config = paper.get_config(f"frames=1,batch=1024,{arg}", videos=1_243_000, epochs=3)
    config.model.frame_positions = 64  # as in the run that starts from these weights
    config.losses.contrast = config.losses.frame = 0.0
    config.losses.sfdm = config.losses.dfsm = 10.0
    config.losses.sparsity = 2.0
    config.losses.hard_pairs = 0  # all, as in SmartCLIP: cheap with one frame a video
    config.optim.learning_rate = 1e-3  # of the mask networks; a thousandth of it for the towers
    config.optim.warmup_steps = min(200, config.train.steps - 1)
    config.optim.weight_decay = 1e-2
    config.train.checkpoint_every = 200  # steps
    config.eval.splits = ()
    return config
