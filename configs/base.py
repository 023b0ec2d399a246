"""The base recipe: trains MoVA from nothing on the embedded data, on any machine.

    python -m mova_jax.main --config=configs/base.py --workdir=runs/base

The argument string after a colon changes it, and any key can be set by name:

    --config=configs/base.py:objective=no_dfsm          an ablation row (mova_jax/config/presets.py)
    --config=configs/base.py:model=b16,frames=64        a model size, frames a video
    --config=configs/base.py:model=b16,init=CLIP        pretrained weights (mova_jax.convert)
    --config=configs/base.py:data=SHARDS                your own videos (see mova_jax.prepare)
    --config.optim.learning_rate=3e-4                   any key below

Every batch size is global: over all devices and processes together.
"""

from ml_collections import ConfigDict

from mova_jax.config import apply, parse_argument
from mova_jax.config.presets import MODELS, OBJECTIVES


def get_config(arg: str = "") -> ConfigDict:
    """The whole configuration.

    Args:
        arg: `key=value` pairs joined by commas: `model` (tiny, b32, b16, l14, l14_336), `objective`
            (a name in `mova_jax.config.presets.OBJECTIVES`), `frames` (frames a video, training and
            evaluation), `data` (a folder of shards), `init` (weights to start from), `steps`,
            `batch`.
    """
    args = parse_argument(
        arg,
        model="tiny",
        objective="full",
        frames=0,
        data="storyboard",
        init="",
        steps=0,
        batch=0,
    )
    config = ConfigDict()
    config.seed = 0
    config.objective = args["objective"]  # name of the preset, for the record
    # Weights to start from: a folder or file of CLIP, Long-CLIP, SmartCLIP or an export of ours
    # (README, "Weights in"); '' = random ones.
    config.init_from = args["init"]

    config.model = model = ConfigDict()
    model.vision = ConfigDict(
        # pixels, pixels, and the transformer's size; set by the model preset
        {"image_size": 64, "patch_size": 16, "width": 128, "layers": 3, "heads": 4}
    )
    model.text = ConfigDict({"width": 128, "layers": 2, "heads": 4})
    model.text.context = 248  # tokens, with start and end
    model.text.frozen_positions = 0  # first positions that are never trained; Long-CLIP's are 20
    model.text.vocab_size = 0  # 0 = the tokenizer's
    model.embed_dim = 128  # d, the joint embedding
    model.activation = "gelu"  # gelu | quick_gelu (CLIP's)
    model.dtype = "float32"  # of the matrix products: float32 | bfloat16
    # What of the towers' blocks is computed again in the backward pass: none | dots (all but the
    # results of matrix products) | full (all but the input of each block)
    model.remat = "none"
    model.global_head = "mean"  # mean | seq_transformer
    model.head_layers = 4  # blocks of seq_transformer
    # Rows of the frame position tables; frames lie between them by their place in the video.
    model.frame_positions = 8
    model.scale = 14.3  # trained scale of the global scores at the start, capped at 100
    model.modular_scale = 14.3  # the same of the modular scores; 0 = the model has none
    model.tmn = ConfigDict()
    model.tmn.layout = "select"  # select | cross | joint | tokens | none
    model.tmn.layers = 2  # reads of the caption (select) or transformer layers
    model.tmn.token_layers = 0  # blocks over the tokens before the reads (select)
    model.tmn.heads = 4
    model.tmn.detach_tokens = False  # stop the gradient from the TMN into the text tower
    model.cmn = ConfigDict()
    model.cmn.kind = "pool"  # pool | none
    model.cmn.heads = 4
    model.cmn.sees_frame = False  # True lets a mask carry its video's identity
    model.cmn.detach_tokens = True  # as the parent does
    model.masks = ConfigDict()
    model.masks.kind = "hard"  # hard | soft
    model.masks.temperature = 1.0  # divides the logits
    model.masks.init_bias = 2.0  # logits at the start; > 0 = masks start open

    config.losses = losses = ConfigDict()
    losses.contrast = 1.0  # weight of L_g
    losses.frame = 0.1  # weight of L_tv
    losses.sfdm = 1.0  # weight of same frame, different masks (L_vt)
    losses.dfsm = 1.0  # weight of different frames, same mask (L_vt)
    losses.sparsity = 0.02  # weight of L_s
    losses.margin = 0.2  # of L_tv, in cosine
    losses.frame_form = "hinge"  # hinge | relative
    losses.frame_negatives = "same_index"  # same_index | all
    losses.dfsm_masks = "pair"  # pair: each pair's own masks | own: a caption's own, which leak
    losses.pool = "joint"  # of a pair's score over frames: aligned | softmax | mean | joint
    losses.pool_scale = 10.0  # of the softmax over frames
    losses.hard_pairs = 0  # sfdm over the k hardest captions of a video; 0 = all of the batch
    # Videos of a device that meet its captions at once; the rest waits, and the backward pass does
    losses.pair_block = 0  # it again. 0 = as many as there is room for (docs/method.md, 4)
    losses.warmup_steps = 0  # steps over which the modular weights rise from 0
    losses.detach_towers = False  # keep the modular gradients out of the towers

    config.data = data = ConfigDict()
    # `storyboard` (generated), a folder or URL of shards, or a TFDS data set, `tfds:NAME`
    data.source = args["data"]
    # (folder, URL or tfds:NAME, weight) of several sources whose train splits are trained on, in
    # place of that of data.source; () = none. Each batch has of them by weight.
    data.mixture = ()
    data.cache = ".data"  # where generated shards are kept, and copies of shards at a URL
    data.frames = 8  # a video, in training
    # A batch is padded to the first length that holds it.
    data.token_buckets = (48, 64, 96, 128, 160, 192, 248)
    data.frame_policy = "jittered"  # in training: jittered | even | dense | fps1
    data.caption_policy = "all"  # sentences in training: all | prefix (the first n) | one
    data.short_caption_share = 0.25  # of training captions, where a video has short ones
    data.threads = 2  # that read and decode; used when worker_processes = 0
    data.worker_processes = 0
    data.prefetch = 4  # batches ready ahead
    data.train_videos = 10000  # of the generated data
    data.eval_videos = 256  # of each generated evaluation split

    config.optim = optim = ConfigDict()
    optim.learning_rate = 5e-4  # peak
    optim.warmup_steps = 50
    optim.final_fraction = 0.02  # of the peak, at the end of the cosine
    optim.b1, optim.b2, optim.eps = 0.9, 0.98, 1e-6
    optim.weight_decay = 0.05  # on matrices; vectors and scalars have none
    optim.clip_norm = 1.0  # of the whole gradient; 0 = none
    # (regex over parameter names, factor on the learning rate); the first match counts, 0 freezes.
    optim.groups = ((".*", 1.0),)
    optim.moment_dtype = "float32"  # of the first moment: float32 | bfloat16
    # Decay a step of an average of the parameters, which is then what is evaluated and exported,
    # for example 0.999; 0 = none
    optim.ema = 0.0

    config.train = train = ConfigDict()
    train.steps = args["steps"] or 800
    train.batch_size = args["batch"] or 32  # videos, global
    # The first steps are a warm-up on image-caption data: one frame of each video, and a sentence
    # that holds while it is shown.
    train.image_share = 0.3  # of the steps; 0 = no warm-up
    train.image_batch_size = 0  # frames, global; 0 = 4 * batch_size, at most the train split
    # Rows that the towers take at a time, global, and again in the backward pass: memory for time.
    # The losses see the whole batch all the same.
    train.microbatch = 0  # 0 = all at once; else divides both batch sizes
    train.log_every = 10  # steps
    train.eval_every = 400  # steps; validation, and a checkpoint that may become the best
    train.checkpoint_every = 100  # steps; the last one is kept for a resume

    config.eval = evaluate = ConfigDict()
    evaluate.frames = 32  # a video
    evaluate.batch_size = 64  # videos or captions
    evaluate.gallery = 0  # videos of a split that are used; 0 = all
    evaluate.splits = ("test", "ood_time", "ood_domain")  # at the end, those that the data has
    evaluate.timelines = 4  # test videos drawn in the report
    # Captions that ask for videos: data (as the data set's papers do) | caption (one a video) | all
    evaluate.queries = "data"
    evaluate.pool = "aligned"  # of a pair's score: as losses.pool, or `training` = the same

    # Devices on each axis; one of the three may be -1, which takes what is left. `data` splits the
    # batch, `fsdp` the batch and the parameters, `tensor` heads and MLPs.
    config.mesh = ConfigDict({"data": -1, "fsdp": 1, "tensor": 1})

    apply(config, MODELS, args["model"])
    apply(config, OBJECTIVES, args["objective"])
    if args["frames"]:
        data.frames = evaluate.frames = args["frames"]
        model.frame_positions = args["frames"]
    return config
