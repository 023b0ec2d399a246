"""Small towers from nothing, on any captioned pictures: a CLIP that two cores can train.

    python -m mova_jax.prepare pictures --input captions.jsonl --size 96 --views 16 \\
        --output shards/pictures
    python -m mova_jax.main --workdir=runs/pictures \\
        --config=configs/captioned_pictures.py:data=shards/pictures
    python -m mova_jax.convert export runs/pictures out/pictures --to pytorch

Each picture is a video whose frames are crops and flips of it, made by `prepare`; a step draws one
of them with one of its captions, so the data are augmented without decoding more. The loss is
CLIP's, the global contrast. The last tenth of the steps draws the first n captions of a picture,
so that the text tower also meets texts of several sentences.
"""

from ml_collections import ConfigDict

from configs import base


def get_config(arg: str = "") -> ConfigDict:
    """The whole configuration; `arg` as in `configs/base.py`."""
    config = base.get_config(f"objective=global_only,frames=1,batch=64,steps=1500,{arg}")
    model, optim, train = config.model, config.optim, config.train
    model.frame_positions = 64  # as in a run that starts from these weights
    model.vision.image_size, model.vision.patch_size = 96, 24
    model.vision.width, model.vision.layers, model.vision.heads = 192, 4, 6
    model.text.width, model.text.layers, model.text.heads = 192, 2, 6
    model.embed_dim = 192
    config.data.caption_policy, config.data.short_caption_share = "prefix", 0.0
    config.data.token_buckets = (28, 40, 64, 96, 160, 248)
    optim.learning_rate, optim.weight_decay = 1e-3, 0.2
    optim.warmup_steps = train.steps // 15
    optim.ema = 0.99
    train.image_share = 0.9  # steps of 4 batches of single pictures, each with one caption
    train.eval_every = train.checkpoint_every = max(1, train.steps // 10)
    config.eval.queries, config.eval.splits = "all", ("test",)
    return config
