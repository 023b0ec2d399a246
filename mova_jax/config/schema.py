"""The shape of the configuration: its sections as frozen dataclasses, and the legal values.

Keys are described where they get their values, in `configs/base.py`; `mova_jax.config` checks a
configuration against what stands here. A field with a default came later than the others: the
default does what was done before it was there, so that older runs can still be read.
"""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Vision:
    """The frame encoder."""

    image_size: int
    patch_size: int
    width: int
    layers: int
    heads: int


@dataclasses.dataclass(frozen=True)
class Text:
    """The text encoder."""

    width: int
    layers: int
    heads: int
    context: int
    vocab_size: int
    frozen_positions: int = 0


@dataclasses.dataclass(frozen=True)
class TemporalMask:
    """The temporal mask network."""

    layout: str
    layers: int
    token_layers: int
    heads: int
    detach_tokens: bool


@dataclasses.dataclass(frozen=True)
class ConceptMask:
    """The concept mask network."""

    kind: str
    heads: int
    sees_frame: bool
    detach_tokens: bool


@dataclasses.dataclass(frozen=True)
class Masks:
    """What both mask networks share."""

    kind: str
    temperature: float
    init_bias: float


@dataclasses.dataclass(frozen=True)
class Model:
    """The model, everything but its weights."""

    vision: Vision
    text: Text
    embed_dim: int
    activation: str
    dtype: str
    remat: str
    global_head: str
    head_layers: int
    frame_positions: int
    scale: float
    modular_scale: float
    tmn: TemporalMask
    cmn: ConceptMask
    masks: Masks


@dataclasses.dataclass(frozen=True)
class Losses:
    """Weights and forms of the terms."""

    contrast: float
    frame: float
    sfdm: float
    dfsm: float
    sparsity: float
    margin: float
    frame_form: str
    frame_negatives: str
    dfsm_masks: str
    pool: str
    pool_scale: float
    hard_pairs: int
    pair_block: int
    warmup_steps: int
    detach_towers: bool


@dataclasses.dataclass(frozen=True)
class Data:
    """Where examples come from and how they are batched."""

    source: str
    cache: str
    frames: int
    token_buckets: tuple
    short_caption_share: float
    threads: int
    worker_processes: int
    prefetch: int
    train_videos: int
    eval_videos: int
    mixture: tuple = ()
    caption_policy: str = "all"
    frame_policy: str = "jittered"


@dataclasses.dataclass(frozen=True)
class Optim:
    """The optimizer and its schedule."""

    learning_rate: float
    warmup_steps: int
    final_fraction: float
    b1: float
    b2: float
    eps: float
    weight_decay: float
    clip_norm: float
    groups: tuple
    moment_dtype: str = "float32"
    ema: float = 0.0


@dataclasses.dataclass(frozen=True)
class Train:
    """Length and rhythm of a run."""

    steps: int
    batch_size: int
    log_every: int
    eval_every: int
    checkpoint_every: int
    image_share: float = 0.0
    image_batch_size: int = 0
    microbatch: int = 0


@dataclasses.dataclass(frozen=True)
class Eval:
    """What is evaluated, and how."""

    frames: int
    batch_size: int
    gallery: int
    splits: tuple
    timelines: int
    pool: str = "training"
    queries: str = "data"


@dataclasses.dataclass(frozen=True)
class Mesh:
    """Devices."""

    data: int
    fsdp: int = 1
    tensor: int = 1


@dataclasses.dataclass(frozen=True)
class Config:
    """Everything a run is made of."""

    seed: int
    objective: str
    model: Model
    losses: Losses
    data: Data
    optim: Optim
    train: Train
    eval: Eval
    mesh: Mesh
    init_from: str = ""


CHOICES = {
    "model.activation": ("gelu", "quick_gelu"),
    "model.dtype": ("float32", "bfloat16"),
    "model.remat": ("none", "dots", "full"),
    "model.global_head": ("mean", "seq_transformer"),
    "model.tmn.layout": ("select", "cross", "joint", "tokens", "none"),
    "model.cmn.kind": ("pool", "none"),
    "model.masks.kind": ("hard", "soft"),
    "losses.frame_form": ("hinge", "relative"),
    "losses.frame_negatives": ("same_index", "all"),
    "losses.dfsm_masks": ("pair", "own"),
    "eval.queries": ("data", "caption", "all"),
    "data.caption_policy": ("all", "prefix", "one"),
    "data.frame_policy": ("jittered", "even", "dense", "fps1"),
    "eval.pool": ("training", "aligned", "softmax", "mean", "joint"),
    "losses.pool": ("aligned", "softmax", "mean", "joint"),
    "optim.moment_dtype": ("float32", "bfloat16"),
}
# Values of earlier versions, and what they are now.
FORMER = {"model.remat": {False: "none", True: "full"}}
# (lowest, highest) legal value; None = no bound.
RANGES = {
    "model.vision.image_size": (1, None),
    "model.vision.patch_size": (1, None),
    "model.vision.width": (1, None),
    "model.vision.layers": (1, None),
    "model.vision.heads": (1, None),
    "model.text.width": (1, None),
    "model.text.layers": (1, None),
    "model.text.heads": (1, None),
    "model.text.context": (2, None),
    "model.text.frozen_positions": (0, None),
    "model.text.vocab_size": (0, None),
    "model.embed_dim": (1, None),
    "model.head_layers": (1, None),
    "model.frame_positions": (1, None),
    "model.scale": (1e-6, 100.0),
    "model.modular_scale": (0.0, 100.0),
    "model.tmn.layers": (1, None),
    "model.tmn.token_layers": (0, None),
    "model.tmn.heads": (1, None),
    "model.cmn.heads": (1, None),
    "model.masks.temperature": (1e-6, None),
    "losses.contrast": (0.0, None),
    "losses.frame": (0.0, None),
    "losses.sfdm": (0.0, None),
    "losses.dfsm": (0.0, None),
    "losses.sparsity": (0.0, None),
    "losses.margin": (-1.0, 2.0),
    "losses.pool_scale": (0.0, None),
    "losses.hard_pairs": (0, None),
    "losses.pair_block": (0, None),
    "losses.warmup_steps": (0, None),
    "data.frames": (1, None),
    "data.short_caption_share": (0.0, 1.0),
    "data.threads": (0, None),
    "data.worker_processes": (0, None),
    "data.prefetch": (1, None),
    "data.train_videos": (2, None),
    "data.eval_videos": (2, None),
    "optim.learning_rate": (0.0, None),
    "optim.warmup_steps": (0, None),
    "optim.b1": (0.0, 0.999999),
    "optim.b2": (0.0, 0.999999),
    "optim.eps": (1e-12, None),
    "optim.final_fraction": (0.0, 1.0),
    "optim.weight_decay": (0.0, None),
    "optim.clip_norm": (0.0, None),
    "optim.ema": (0.0, 0.999999),
    "train.steps": (1, None),
    "train.batch_size": (2, None),
    "train.image_share": (0.0, 1.0),
    "train.image_batch_size": (0, None),
    "train.microbatch": (0, None),
    "train.log_every": (1, None),
    "train.eval_every": (1, None),
    "train.checkpoint_every": (1, None),
    "eval.frames": (1, None),
    "eval.batch_size": (1, None),
    "eval.gallery": (0, None),
    "eval.timelines": (0, None),
    "mesh.data": (-1, None),
    "mesh.fsdp": (-1, None),
    "mesh.tensor": (-1, None),
}
