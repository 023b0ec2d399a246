"""The configuration: every key, described once.

A key is a field of a frozen dataclass, and its line says everything about it: type, default, legal
values, what it does and its unit. The checks, the values that `configs/base.py` starts from and
`--help_config` are made from these lines. `Config()` is the base recipe with the tiny model. Rules
between keys are in `rules.py`, keys of earlier versions in `upgrade.py`.
"""

import dataclasses
from typing import Any, NamedTuple

REQUIRED = object()  # `Key.before` of a key that every configuration must have


class Key(NamedTuple):
    """The description of one key."""

    default: Any
    help: str
    low: float | None = None
    high: float | None = None
    choices: tuple[str, ...] = ()
    before: Any = REQUIRED
    needs: str = ""
    is_weight: bool = False

    @property
    def legal(self) -> str:
        """The legal values in words; '' where only the type counts."""
        if self.choices:
            return f"one of {', '.join(self.choices)}"
        if self.low is None:
            return ""
        return f"at least {self.low}" if self.high is None else f"from {self.low} to {self.high}"

    def allows(self, value: Any) -> bool:
        """Whether a value of the right type is legal."""
        if self.choices:
            return value in self.choices
        return (self.low is None or self.low <= value) and (self.high is None or value <= self.high)


def key(default: Any, help: str, **limits: Any) -> Any:
    """A field that is a key.

    Args:
        default: value in the base recipe; its type is the key's type.
        help: what the key does, and its unit.
        **limits: `low` and `high` (legal bounds of a number), `choices` (of a string), and for a
            key that came later `before`: the value that does what was done before, for a
            config.json without the key.
    """
    return dataclasses.field(default=default, metadata={"key": Key(default, help, **limits)})


def weight(default: float, help: str, needs: str = "") -> Any:
    """A field that is the weight of a term of the loss; 0 leaves the term out.

    Args:
        default: value in the base recipe.
        help: what the term is.
        needs: what a model must have for the term to make sense: `masks`, `modular_scale` or
            nothing. Presets of models without it set the weight to 0, and a rule asks for that.
    """
    description = Key(default, help, low=0.0, needs=needs, is_weight=True)
    return dataclasses.field(default=default, metadata={"key": description})


@dataclasses.dataclass(frozen=True)
class Vision:
    """The frame encoder."""

    image_size: int = key(64, "pixels of a frame's side", low=1)
    patch_size: int = key(16, "pixels of a patch's side", low=1)
    width: int = key(96, "of the transformer", low=1)
    layers: int = key(3, "transformer blocks", low=1)
    heads: int = key(3, "attention heads", low=1)


@dataclasses.dataclass(frozen=True)
class Text:
    """The text encoder."""

    width: int = key(96, "of the transformer and the mask networks", low=1)
    layers: int = key(2, "transformer blocks", low=1)
    heads: int = key(3, "attention heads, of the mask networks too", low=1)
    context: int = key(248, "tokens of a caption, with start and end", low=2)
    vocab_size: int = key(0, "tokens; 0: as many as the tokenizer has", low=0)
    frozen_positions: int = key(0, "first positions not to train; Long-CLIP: 20", low=0, before=0)


@dataclasses.dataclass(frozen=True)
class TemporalMask:
    """The temporal mask network (TMN): the part of the caption that a frame is about."""

    layout: str = key(
        "select",
        "how frames meet tokens (docs/method.md, 2)",
        choices=("select", "cross", "joint", "tokens", "none"),
    )
    layers: int = key(2, "reads of the caption (select) or transformer blocks", low=1)
    detach_tokens: bool = key(False, "stop the gradient into the text encoder")


@dataclasses.dataclass(frozen=True)
class ConceptMask:
    """The concept mask network (CMN): the concepts of a frame that the part asks for."""

    kind: str = key("pool", "attention pooling over tokens, or none", choices=("pool", "none"))
    sees_frame: bool = key(False, "query by the frame too; masks may then identify a video")
    detach_tokens: bool = key(True, "stop the gradient into the text encoder")


@dataclasses.dataclass(frozen=True)
class Masks:
    """Both mask networks."""

    kind: str = key("hard", "0 or 1 (straight-through), or the sigmoid", choices=("hard", "soft"))
    init_bias: float = key(2.0, "added to the logits; above 0 masks start open")


@dataclasses.dataclass(frozen=True)
class Model:
    """The model, everything but its weights."""

    vision: Vision = Vision()
    text: Text = Text()
    tmn: TemporalMask = TemporalMask()
    cmn: ConceptMask = ConceptMask()
    masks: Masks = Masks()
    embed_dim: int = key(128, "d, dimensions of the joint embedding", low=1)
    activation: str = key("gelu", "CLIP's is quick_gelu", choices=("gelu", "quick_gelu"))
    dtype: str = key("float32", "of matrix products", choices=("float32", "bfloat16"))
    remat: str = key(
        "none",
        "of the towers' blocks, computed again in the backward pass: nothing, all but the results "
        "of matrix products, all but the inputs",
        choices=("none", "dots", "full"),
    )
    global_head: str = key("mean", "frames to one vector", choices=("mean", "seq_transformer"))
    frame_positions: int = key(8, "rows of position tables; frames lie between rows", low=1)
    scale: float = key(14.3, "of the global scores, at the start", low=1e-6, high=100.0)
    modular_scale: float = key(
        14.3, "of the modular scores, at the start; 0: there are none", low=0.0, high=100.0
    )

    @property
    def has_masks(self) -> bool:
        """Whether there is a mask network."""
        return self.tmn.layout != "none" or self.cmn.kind != "none"


@dataclasses.dataclass(frozen=True)
class Losses:
    """Weights and forms of the terms (docs/method.md, 4)."""

    contrast: float = weight(1.0, "L_g, global contrast")
    frame: float = weight(0.1, "L_tv, each frame and its part of the caption", needs="masks")
    sfdm: float = weight(1.0, "L_vt, same frame, different masks", needs="modular_scale")
    dfsm: float = weight(1.0, "L_vt, different frames, same mask", needs="modular_scale")
    sparsity: float = weight(0.02, "L_s, open share of the masks", needs="masks")
    margin: float = key(0.2, "of L_tv, in cosine", low=-1.0, high=2.0)
    frame_form: str = key("hinge", "form of L_tv", choices=("hinge", "relative"))
    frame_negatives: str = key(
        "same_index", "frames of other videos in L_tv", choices=("same_index", "all")
    )
    dfsm_masks: str = key(
        "pair",
        "each pair's own, or a caption's own on every video (leaks)",
        choices=("pair", "own"),
    )
    pool: str = key(
        "joint",
        "a pair's score from its frames, in training (docs/method.md, 3)",
        choices=("aligned", "softmax", "mean", "joint"),
    )
    hard_pairs: int = key(0, "captions in sfdm, a video's hardest; 0: all of the batch", low=0)


@dataclasses.dataclass(frozen=True)
class Data:
    """Where examples come from and how they are batched."""

    source: str = key("storyboard", "generated, or a folder or URL of shards, or tfds:NAME")
    mixture: tuple = key(
        (), "(source, weight) pairs to train on in place of data.source", before=()
    )
    cache: str = key(".data", "folder for generated shards and copies of shards at a URL")
    frames: int = key(8, "a video, in training", low=1)
    token_buckets: tuple = key(
        (48, 64, 96, 128, 160, 192, 248), "tokens; a batch is padded to the first that holds it"
    )
    frame_policy: str = key(
        "jittered",
        "which frames are drawn, in training (docs/data.md)",
        choices=("jittered", "even", "dense", "fps1"),
        before="jittered",
    )
    caption_policy: str = key(
        "all",
        "sentences that are drawn, in training: all, the first n, one",
        choices=("all", "prefix", "one"),
        before="all",
    )
    short_caption_share: float = key(
        0.25, "of training captions, where a video has short ones", low=0.0, high=1.0
    )
    worker_processes: int = key(0, "that read and decode; 0: threads of this process do", low=0)
    train_videos: int = key(10000, "of the generated data", low=2)
    eval_videos: int = key(256, "of each other split of the generated data", low=2)


@dataclasses.dataclass(frozen=True)
class Optim:
    """The optimizer and its schedule."""

    learning_rate: float = key(5e-4, "peak of the schedule", low=0.0)
    warmup_steps: int = key(50, "steps from 0 to the peak", low=0)
    final_fraction: float = key(0.02, "of the peak, at the end of the cosine", low=0.0, high=1.0)
    weight_decay: float = key(0.05, "of matrices; vectors and scalars have none", low=0.0)
    clip_norm: float = key(1.0, "of the whole gradient; 0: no clipping", low=0.0)
    groups: tuple = key(
        ((".*", 1.0),),
        "(regex, factor on the learning rate) pairs; the first that fits a parameter's name "
        "counts, 0 freezes",
    )
    ema: float = key(
        0.0,
        "decay a step of an average of the parameters, which is evaluated and exported; 0: none",
        low=0.0,
        high=0.999999,
        before=0.0,
    )


@dataclasses.dataclass(frozen=True)
class Train:
    """Length and rhythm of a run; batch sizes are global, over all devices and processes."""

    steps: int = key(800, "of the run", low=1)
    batch_size: int = key(32, "videos", low=2)
    microbatch: int = key(
        0, "videos that go through the towers at once, in less memory; 0: all", low=0, before=0
    )
    image_share: float = key(
        0.3,
        "of the steps, the first, on single frames and sentences",
        low=0.0,
        high=1.0,
        before=0.0,
    )
    log_every: int = key(10, "steps", low=1)
    eval_every: int = key(400, "steps to a validation, which may save the best", low=1)
    checkpoint_every: int = key(100, "steps to a checkpoint for a resume", low=1)


@dataclasses.dataclass(frozen=True)
class Eval:
    """What is evaluated, and how."""

    frames: int = key(32, "a video", low=1)
    batch_size: int = key(64, "videos or captions at once", low=1)
    splits: tuple = key(
        ("test", "ood_time", "ood_domain"), "at the end of the run, those that the data has"
    )
    queries: str = key(
        "data",
        "captions that search: as the data set's papers do, one a video, all",
        choices=("data", "caption", "all"),
        before="data",
    )
    pool: str = key(
        "aligned",
        "as losses.pool, in search; training: the same",
        choices=("training", "aligned", "softmax", "mean", "joint"),
        before="training",
    )


@dataclasses.dataclass(frozen=True)
class Mesh:
    """Devices on each axis; one axis may be -1, which takes those that are left."""

    data: int = key(-1, "splits the batch", low=-1)
    fsdp: int = key(1, "splits the batch and the parameters", low=-1, before=1)
    tensor: int = key(1, "splits heads and MLPs", low=-1, before=1)


@dataclasses.dataclass(frozen=True)
class Config:
    """Everything that a run is made of."""

    seed: int = key(0, "of weights and of the order of examples")
    objective: str = key("full", "name of the preset, for the record")
    init_from: str = key("", "weights to start from (docs/weights.md); '': random", before="")
    model: Model = Model()
    losses: Losses = Losses()
    data: Data = Data()
    optim: Optim = Optim()
    train: Train = Train()
    eval: Eval = Eval()
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
    """Keys that are weights of terms: all of them, or those that need `masks` (see `weight`)."""
    return tuple(k for k, v in KEYS.items() if v.is_weight and needs in (None, v.needs))
