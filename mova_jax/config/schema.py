"""The configuration: every key, described once.

A key is a field of a frozen dataclass, and its line says everything about it: type, default, legal
values, what it does and its unit. The checks, the values that `configs/base.py` starts from and
`--help_config` are made from these lines. `Config()` is the base recipe with the tiny model. Rules
between keys are in `rules.py`, keys of earlier versions in `upgrade.py`.
"""

import dataclasses

from mova_jax.config.keys import Key, key, weight

# OpenAI's statistics of RGB values; from scratch too, so that weights are comparable.
CLIP_MEAN, CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
POOLS = ("aligned", "softmax", "logmeanexp", "max", "mean", "joint")


@dataclasses.dataclass(frozen=True)
class Vision:
    """The frame encoder."""

    image_size: int = key(64, "height and width of a frame, pixels", low=1)
    patch_size: int = key(16, "height and width of a patch, pixels", low=1)
    width: int = key(96, "width of the transformer", low=1)
    layers: int = key(3, "number of transformer blocks", low=1)
    heads: int = key(3, "number of attention heads", low=1)
    mean: tuple = key(CLIP_MEAN, "mean of red, green and blue in 0..1", before=CLIP_MEAN)
    std: tuple = key(CLIP_STD, "their deviation: frames are (RGB - mean) / std", before=CLIP_STD)


@dataclasses.dataclass(frozen=True)
class Text:
    """The text encoder."""

    width: int = key(96, "width of the transformer and of the mask networks", low=1)
    layers: int = key(2, "number of transformer blocks", low=1)
    heads: int = key(3, "number of attention heads, also in the mask networks", low=1)
    context: int = key(248, "longest caption, tokens with start and end", low=2)
    vocab_size: int = key(0, "tokens in the vocabulary; 0: those of the tokenizer", low=0)
    frozen_positions: int = key(0, "first positions kept untrained; Long-CLIP: 20", low=0, before=0)


@dataclasses.dataclass(frozen=True)
class TemporalMask:
    """The temporal mask network (TMN), which selects a part of the caption for each frame."""

    layout: str = key(
        "none",
        "how frames and tokens are combined (docs/method.md, 2)",
        choices=("select", "cross", "joint", "tokens", "none"),
    )
    layers: int = key(2, "number of reads of the caption (select) or of blocks", low=1)
    detach_tokens: bool = key(False, "stop the gradient from the TMN into the text encoder")


@dataclasses.dataclass(frozen=True)
class ConceptMask:
    """The concept mask network (CMN), which selects the concepts of a frame for that part."""

    kind: str = key("none", "attention pooling over tokens; or no CMN", choices=("pool", "none"))
    sees_frame: bool = key(False, "query by the frame too; a mask can then identify its video")
    detach_tokens: bool = key(True, "stop the gradient from the CMN into the text encoder")


@dataclasses.dataclass(frozen=True)
class Masks:
    """The masks of both networks."""

    kind: str = key(
        "hard",
        "exactly 0 or 1; a sigmoid; or from the sigmoid to 0 or 1 over the steps of the training",
        choices=("hard", "soft", "annealed"),
    )
    init_bias: float = key(2.0, "added to the logits: above 0, masks start open")


@dataclasses.dataclass(frozen=True)
class Model:
    """The model without its weights."""

    vision: Vision = Vision()
    text: Text = Text()
    tmn: TemporalMask = TemporalMask()
    cmn: ConceptMask = ConceptMask()
    masks: Masks = Masks()
    embed_dim: int = key(128, "d, dimension of the joint embedding", low=1)
    activation: str = key(
        "gelu",
        "activation of the MLPs; in OpenAI's CLIP quick_gelu",
        choices=("gelu", "quick_gelu"),
    )
    dtype: str = key("float32", "type of matrix products", choices=("float32", "bfloat16"))
    remat: str = key(
        "none",
        "what the backward pass computes again in the towers' blocks: no matrix products; those of "
        "attention; all",
        choices=("none", "dots", "full"),
    )
    attention: str = key(
        "xla",
        "the towers' attention: plain; a fused kernel of GPUs (cuDNN, bfloat16) or of TPUs",
        choices=("xla", "cudnn", "pallas"),
        before="xla",
    )
    global_head: str = key("mean", "pooling of frames", choices=("mean", "seq_transformer"))
    frame_positions: int = key(8, "rows of position tables, interpolated for other lengths", low=1)
    scale: float = key(14.3, "initial scale of global scores", low=1.0, high=100.0)
    modular_scale: float = key(
        14.3, "initial scale of modular scores; 0: the model has none", low=0.0, high=100.0
    )
    sharpness: float = key(
        20.0,
        "initial factor on cosines in the pools softmax and, for 32 frames, logmeanexp; 0: fixed "
        "at 10",
        low=0.0,
        before=0.0,
    )

    @property
    def has_masks(self) -> bool:
        """Whether there is a mask network."""
        return self.tmn.layout != "none" or self.cmn.kind != "none"

    @property
    def masks_see_frames(self) -> bool:
        """Whether masks depend on frames; else those of a caption hold for all videos."""
        return self.tmn.layout != "none" or (self.cmn.kind != "none" and self.cmn.sees_frame)


@dataclasses.dataclass(frozen=True)
class Losses:
    """Weights and forms of the terms (docs/method.md, 4)."""

    contrast: float = weight(1.0, "weight of L_g, the global contrast")
    frame: float = weight(0.0, "weight of L_tv, the frame contrast", needs="masks_or_parts")
    sfdm: float = weight(1.0, "weight of same frame, different masks", needs="modular_scale")
    dfsm: float = weight(1.0, "weight of different frames, same mask", needs="modular_scale")
    sparsity: float = weight(0.0, "weight of L_s, the open share of the masks", needs="masks")
    margin: float = key(
        0.2,
        "margin of L_tv, cosine; above it a frame shows a part of a divided caption",
        low=-1.0,
        high=2.0,
    )
    frame_negatives: str = key(
        "same_index",
        "negatives of L_tv in other videos, of whole captions",
        choices=("same_index", "all"),
    )
    dfsm_masks: str = key(
        "pair",
        "masks in dfsm: of each pair; of a caption and its own video, which leak identity; none",
        choices=("pair", "own", "none"),
    )
    pool: str = key(
        "logmeanexp",
        "pooling of a pair's score over frames, in training (docs/method.md, 3)",
        choices=POOLS,
    )
    order: float = key(
        0.5,
        "prior probability that the parts of a caption are in the order of time; 0: in any order",
        low=0.0,
        high=1.0,
        before=0.0,
    )
    hard_pairs: int = key(0, "negatives in sfdm, the hardest of each video; 0: all", low=0)


@dataclasses.dataclass(frozen=True)
class Data:
    """Where examples come from and how they are batched."""

    source: str = key("storyboard", "storyboard (generated), folder or URL of shards, tfds:NAME")
    mixture: tuple = key(
        (), "(source, weight) pairs to train on in place of data.source", before=()
    )
    cache: str = key(".data", "folder for generated shards and copies of shards at a URL")
    frames: int = key(8, "frames of a video, in training", low=1)
    parts: int = key(
        8,
        "most parts of a caption, each a sentence or several; 0: the caption is not divided",
        low=0,
        before=0,
    )
    token_buckets: tuple = key(
        (48, 64, 96, 128, 160, 192, 248), "tokens; a batch is padded to the first that fits it"
    )
    frame_policy: str = key(
        "jittered",
        "which frames of a video are drawn, in training (docs/data.md)",
        choices=("jittered", "even", "dense", "fps1"),
        before="jittered",
    )
    caption_policy: str = key(
        "all",
        "which sentences of a caption are drawn, in training: all, the first n, one",
        choices=("all", "prefix", "one"),
        before="all",
    )
    short_caption_share: float = key(
        0.25, "chance of a short caption, where a video has one", low=0.0, high=1.0
    )
    worker_processes: int = key(0, "processes that read and decode; 0: threads", low=0)
    train_videos: int = key(10000, "generated videos to train on", low=2)
    eval_videos: int = key(256, "generated videos in each other split", low=2)


@dataclasses.dataclass(frozen=True)
class Optim:
    """The optimizer and its schedule."""

    learning_rate: float = key(5e-4, "peak of the learning rate", low=0.0)
    warmup_steps: int = key(50, "steps of the linear rise to the peak", low=0)
    final_fraction: float = key(0.02, "share of the peak at the end", low=0.0, high=1.0)
    weight_decay: float = key(0.05, "decay of matrices; vectors and scalars have none", low=0.0)
    clip_norm: float = key(1.0, "largest norm of the whole gradient; 0: any", low=0.0)
    groups: tuple = key(
        ((".*", 1.0),),
        "(regex, factor on the learning rate) pairs; the first regex that matches a parameter's "
        "name counts; factor 0 freezes",
    )
    moment_dtype: str = key(
        "float32",
        "type of Adam's first moment; bfloat16 halves its memory",
        choices=("float32", "bfloat16"),
        before="float32",
    )
    ema: float = key(
        0.0,
        "decay per step of a moving average of the parameters, which is evaluated; 0: no average",
        low=0.0,
        high=0.999999,
        before=0.0,
    )


@dataclasses.dataclass(frozen=True)
class Train:
    """Length and rhythm of a run; batches are global, over all devices and processes."""

    steps: int = key(640, "steps of the run", low=1)
    batch_size: int = key(32, "videos in a batch", low=2)
    microbatch: int = key(
        0, "videos in the towers at a time, to save memory; 0: all", low=0, before=0
    )
    image_share: float = key(
        0.375,
        "share of the steps, the first ones, that train on single frames",
        low=0.0,
        high=1.0,
        before=0.0,
    )
    log_every: int = key(10, "steps between two rows of metrics", low=1)
    eval_every: int = key(400, "steps between two validations", low=1)
    checkpoint_every: int = key(100, "steps between two checkpoints", low=1)


@dataclasses.dataclass(frozen=True)
class Eval:
    """The evaluations of a run."""

    frames: int = key(32, "frames of a video", low=1)
    batch_size: int = key(64, "videos or captions at a time", low=1)
    splits: tuple = key(
        ("test", "ood_time", "ood_domain", "confusable"),
        "evaluated at the end, where the data has them",
    )
    queries: str = key(
        "data",
        "captions that are queries: as the shards say; the first of each video; all",
        choices=("data", "caption", "all"),
        before="data",
    )
    pool: str = key(
        "training",
        "pooling of a pair's score over frames; training: as losses.pool",
        choices=("training", *POOLS),
        before="training",
    )


@dataclasses.dataclass(frozen=True)
class Log:
    """Where the metrics of a run go, besides its workdir."""

    tracker: str = key(
        "none",
        "experiment tracker that gets the metrics too (requirements-trackers.txt)",
        choices=("none", "wandb", "trackio"),
        before="none",
    )


@dataclasses.dataclass(frozen=True)
class Mesh:
    """Devices on each axis of the mesh; -1 on one of them takes all that are left."""

    data: int = key(-1, "devices that split the batch", low=-1)
    fsdp: int = key(1, "devices that split batch and parameters", low=-1, before=1)
    tensor: int = key(1, "devices that split heads and MLPs", low=-1, before=1)


@dataclasses.dataclass(frozen=True)
class Config:
    """The whole configuration."""

    seed: int = key(0, "seed of the weights and of the order of examples")
    objective: str = key("parts_ordered", "name of the preset, for the record")
    init_from: str = key("", "weights to start from (docs/weights.md); '': random ones", before="")
    model: Model = Model()
    losses: Losses = Losses()
    data: Data = Data()
    optim: Optim = Optim()
    train: Train = Train()
    eval: Eval = Eval()
    log: Log = Log()
    mesh: Mesh = Mesh()


def _walk(cls: type, prefix: str = "") -> tuple[dict[str, type], dict[str, Key]]:
    """Sections and keys of a dataclass by their dotted names."""
    sections, keys = {prefix.removesuffix("."): cls}, {}
    for field in dataclasses.fields(cls):
        if "key" in field.metadata:
            keys[prefix + field.name] = field.metadata["key"]
        else:
            inner = _walk(type(field.default), f"{prefix}{field.name}.")
            sections, keys = sections | inner[0], keys | inner[1]
    return sections, keys


SECTIONS, KEYS = _walk(Config)


def weights(needs: str | None = None) -> tuple[str, ...]:
    """Keys that are weights of terms: all, or those with that need (see `keys.weight`)."""
    return tuple(k for k, v in KEYS.items() if v.is_weight and needs in (None, v.needs))
