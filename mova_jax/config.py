"""The configuration: from `ml_collections.ConfigDict` to checked, frozen dataclasses.

`configs/*.py` build a ConfigDict, the command line changes keys of it, `from_config_dict` checks all
of it at once and gives a `Config`, which is what every other module sees. Keys are described where
they get their values, in `configs/base.py`.
"""

import ast
import dataclasses
import difflib
import json
import types
import typing
from typing import Any

from ml_collections import ConfigDict


class ConfigError(ValueError):
    """All that is wrong with a configuration, one line each."""

    def __init__(self, problems: list[str]):
        self.problems = problems
        lines = "\n".join(f"  - {problem}" for problem in problems)
        super().__init__(f"the configuration has {len(problems)} problem(s):\n{lines}")


@dataclasses.dataclass(frozen=True)
class Vision:
    image_size: int
    patch_size: int
    width: int
    layers: int
    heads: int


@dataclasses.dataclass(frozen=True)
class Text:
    width: int
    layers: int
    heads: int
    context: int
    vocab_size: int


@dataclasses.dataclass(frozen=True)
class TemporalMask:
    layout: str
    layers: int
    token_layers: int
    heads: int
    detach_tokens: bool


@dataclasses.dataclass(frozen=True)
class ConceptMask:
    kind: str
    heads: int
    sees_frame: bool
    detach_tokens: bool


@dataclasses.dataclass(frozen=True)
class Masks:
    kind: str
    temperature: float
    init_bias: float


@dataclasses.dataclass(frozen=True)
class Model:
    vision: Vision
    text: Text
    embed_dim: int
    activation: str
    dtype: str
    remat: bool
    global_head: str
    head_layers: int
    max_frames: int
    scale: float
    modular_scale: float
    tmn: TemporalMask
    cmn: ConceptMask
    masks: Masks


@dataclasses.dataclass(frozen=True)
class Losses:
    contrast: float
    frame: float
    sfdm: float
    dfsm: float
    sparsity: float
    margin: float
    frame_form: str
    frame_negatives: str
    pool: str
    pool_scale: float
    hard_pairs: int
    pair_block: int
    warmup_steps: int
    detach_towers: bool


@dataclasses.dataclass(frozen=True)
class Data:
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


@dataclasses.dataclass(frozen=True)
class Optim:
    learning_rate: float
    warmup_steps: int
    final_fraction: float
    b1: float
    b2: float
    eps: float
    weight_decay: float
    clip_norm: float
    groups: tuple


@dataclasses.dataclass(frozen=True)
class Train:
    steps: int
    batch_size: int
    log_every: int
    eval_every: int
    checkpoint_every: int


@dataclasses.dataclass(frozen=True)
class Eval:
    frames: int
    batch_size: int
    gallery: int
    timelines: int


@dataclasses.dataclass(frozen=True)
class Mesh:
    data: int


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


CHOICES = {
    "model.activation": ("gelu", "quick_gelu"),
    "model.dtype": ("float32", "bfloat16"),
    "model.global_head": ("mean", "seq_transformer"),
    "model.tmn.layout": ("select", "cross", "joint", "tokens", "none"),
    "model.cmn.kind": ("pool", "none"),
    "model.masks.kind": ("hard", "soft"),
    "losses.frame_form": ("hinge", "relative"),
    "losses.frame_negatives": ("same_index", "all"),
    "losses.pool": ("softmax", "mean", "joint"),
}
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
    "model.text.vocab_size": (0, None),
    "model.embed_dim": (1, None),
    "model.head_layers": (1, None),
    "model.max_frames": (1, None),
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
    "optim.final_fraction": (0.0, 1.0),
    "optim.weight_decay": (0.0, None),
    "optim.clip_norm": (0.0, None),
    "train.steps": (1, None),
    "train.batch_size": (2, None),
    "train.log_every": (1, None),
    "train.eval_every": (1, None),
    "train.checkpoint_every": (1, None),
    "eval.frames": (1, None),
    "eval.batch_size": (1, None),
    "eval.gallery": (0, None),
    "eval.timelines": (0, None),
    "mesh.data": (-1, None),
}


def parse_argument(arg: str, **defaults) -> dict[str, Any]:
    """Parses a config's argument string, `key=value,key=value`, by the types of the defaults.

    Raises:
        ConfigError: for a key that is not among the defaults or a value of another type.
    """
    values, problems = dict(defaults), []
    for item in filter(None, arg.split(",")):
        key, _, text = item.partition("=")
        if key not in defaults:
            problems.append(f"unknown argument {key!r} in {arg!r}{_nearest(key, defaults)}")
            continue
        try:
            values[key] = type(defaults[key])(text)
        except ValueError:
            kind = type(defaults[key]).__name__
            problems.append(f"argument {key}: got {text!r}, expected {kind}")
    if problems:
        raise ConfigError(problems)
    return values


def apply(config: ConfigDict, presets: dict[str, dict[str, Any]], name: str) -> None:
    """Sets the keys that the preset of that name changes.

    Raises:
        ConfigError: when there is no such preset.
    """
    if name not in presets:
        raise ConfigError([f"unknown preset {name!r}{_nearest(name, presets)}"])
    config.update_from_flattened_dict(presets[name])


def from_config_dict(config: ConfigDict) -> Config:
    """Checks everything and freezes it.

    Raises:
        ConfigError: with all problems at once: unknown, missing and ill-typed keys, values out of
            range, fields that contradict each other.
    """
    problems: list[str] = []
    checked = _build(Config, config.to_dict(), "", problems)
    if not problems:
        problems = _check_values(checked) + _check_fields(checked)
    if problems:
        raise ConfigError(problems)
    return checked


def _build(cls, values: dict[str, Any], prefix: str, problems: list[str]):
    """One dataclass from one dict, recursively; what is wrong goes to `problems`."""
    hints = typing.get_type_hints(cls)
    for key in values:
        if key not in hints:
            problems.append(f"unknown key {prefix}{key}{_nearest(key, hints, prefix)}")
    kwargs = {}
    for key, kind in hints.items():
        if key not in values:
            problems.append(f"missing key {prefix}{key}")
            continue
        value = values[key]
        if dataclasses.is_dataclass(kind):
            if isinstance(value, dict):
                kwargs[key] = _build(kind, value, f"{prefix}{key}.", problems)
            else:
                problems.append(f"{prefix}{key}: got {value!r}, expected a section of keys")
        else:
            kwargs[key] = _typed(value, kind, f"{prefix}{key}", problems)
    return cls(**kwargs) if len(kwargs) == len(hints) else None


def _typed(value, kind, name: str, problems: list[str]):
    """`value` as `kind`; ints pass for floats, lists for tuples, nothing else for another."""
    if kind is float and type(value) is int:
        return float(value)
    if kind is tuple and isinstance(value, list):
        return _tuples(value)
    if type(value) is not kind:
        problems.append(f"{name}: got {value!r} ({type(value).__name__}), expected {kind.__name__}")
    return value


def _tuples(value):
    """Lists within lists as tuples, so that configs from JSON compare equal."""
    return tuple(_tuples(v) for v in value) if isinstance(value, list | tuple) else value


def _nearest(name: str, known, prefix: str = "") -> str:
    """What the user may have meant, for the end of an error."""
    close = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    hint = f"; did you mean {prefix}{close[0]}?" if close else ""
    return hint or f"; there are: {', '.join(prefix + k for k in known)}"


def _check_values(config: Config) -> list[str]:
    """Fields against `CHOICES` and `RANGES`."""
    flat, problems = flatten(config), []
    for name, choices in CHOICES.items():
        if flat[name] not in choices:
            problems.append(f"{name}: got {flat[name]!r}, expected one of {', '.join(choices)}")
    for name, (low, high) in RANGES.items():
        value = flat[name]
        if (low is not None and value < low) or (high is not None and value > high):
            bounds = f"at least {low}" if high is None else f"from {low} to {high}"
            problems.append(f"{name}: got {value}, expected {bounds}")
    return problems


def _check_fields(config: Config) -> list[str]:
    """Fields that have to agree with each other."""
    model, problems = config.model, []
    if model.vision.image_size % model.vision.patch_size:
        problems.append(
            f"model.vision.image_size {model.vision.image_size} is not a multiple of "
            f"model.vision.patch_size {model.vision.patch_size}"
        )
    for name, width, heads in (
        ("model.vision.heads", model.vision.width, model.vision.heads),
        ("model.text.heads", model.text.width, model.text.heads),
        ("model.tmn.heads", model.text.width, model.tmn.heads),
        ("model.cmn.heads", model.text.width, model.cmn.heads),
    ):
        if width % heads:
            problems.append(f"{name}: {heads} heads do not divide the width {width}")
    buckets = config.data.token_buckets
    if not buckets or list(buckets) != sorted(set(buckets)) or buckets[-1] != model.text.context:
        problems.append(
            f"data.token_buckets: got {buckets}, expected rising lengths that end at "
            f"model.text.context = {model.text.context}"
        )
    for name, frames in (("data.frames", config.data.frames), ("eval.frames", config.eval.frames)):
        if frames > model.max_frames:
            problems.append(f"{name} {frames} is over model.max_frames {model.max_frames}")
    has_masks = model.tmn.layout != "none" or model.cmn.kind != "none"
    if not has_masks and (config.losses.frame or config.losses.sparsity):
        problems.append(
            "losses.frame and losses.sparsity need masks: set both to 0, or a model.tmn.layout"
        )
    modular = config.losses.sfdm or config.losses.dfsm
    if modular and not model.modular_scale:
        problems.append("losses.sfdm and losses.dfsm need model.modular_scale > 0")
    if config.losses.hard_pairs >= config.train.batch_size:
        problems.append(
            f"losses.hard_pairs {config.losses.hard_pairs} must be under train.batch_size "
            f"{config.train.batch_size}"
        )
    if config.optim.warmup_steps >= config.train.steps:
        problems.append(
            f"optim.warmup_steps {config.optim.warmup_steps} must be under train.steps "
            f"{config.train.steps}"
        )
    return problems + _check_groups(config.optim.groups)


def _check_groups(groups) -> list[str]:
    """Each group a (regex, factor) pair; the last catches all."""
    good = all(
        isinstance(g, tuple) and len(g) == 2 and isinstance(g[0], str) and g[1] >= 0 for g in groups
    )
    if not good or not groups or groups[-1][0] != ".*":
        return [
            f"optim.groups: got {groups}, expected (regex, factor >= 0) pairs, the last for '.*'"
        ]
    return []


def flatten(config: Config) -> dict[str, Any]:
    """`{'model.tmn.layout': 'select', ...}`."""
    flat = {}

    def visit(node, prefix):
        for field in dataclasses.fields(node):
            value = getattr(node, field.name)
            if dataclasses.is_dataclass(value):
                visit(value, f"{prefix}{field.name}.")
            else:
                flat[prefix + field.name] = value

    visit(config, "")
    return flat


def difference(config: Config, base: Config) -> dict[str, tuple[Any, Any]]:
    """Keys whose values differ: {name: (value in base, value in config)}."""
    new, old = flatten(config), flatten(base)
    return {name: (old[name], new[name]) for name in new if new[name] != old[name]}


def to_json(config: Config) -> str:
    """The configuration as JSON text."""
    return json.dumps(dataclasses.asdict(config), indent=2) + "\n"


def from_json(text: str) -> Config:
    """The inverse of `to_json`, with the same checks."""
    values = json.loads(text)
    return from_config_dict(ConfigDict({k: _deep_tuples(v) for k, v in values.items()}))


def _deep_tuples(value):
    """JSON's lists as tuples, at any depth of dicts."""
    if isinstance(value, dict):
        return {k: _deep_tuples(v) for k, v in value.items()}
    return _tuples(value)


def check_overrides(config: ConfigDict, overrides: dict[str, str]) -> list[str]:
    """What is wrong with `--config.key=value` flags, all of them at once.

    Args:
        config: the configuration that they change.
        overrides: the text of each value by dotted key.

    Returns:
        One line a problem; empty when all keys exist and all values have the key's type.
    """
    known = _leaves(config.to_dict())
    problems = []
    for key, text in overrides.items():
        if key not in known:
            problems.append(f"unknown key {key}{_nearest(key, known)}")
        elif not _parses(text, known[key]):
            kind = type(known[key]).__name__
            problems.append(f"{key}: got {text!r}, expected {kind}")
    return problems


def _leaves(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Dotted names of the leaves of nested dicts."""
    flat = {}
    for key, value in values.items():
        if isinstance(value, dict):
            flat |= _leaves(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
    return flat


def _parses(text: str, like: Any) -> bool:
    """Whether a flag's text can become a value of `like`'s type."""
    match like:
        case bool():
            return text.lower() in ("true", "false", "1", "0", "")
        case str():
            return True
        case int() | float() | tuple() | types.NoneType():
            try:
                value = ast.literal_eval(text)
            except (ValueError, SyntaxError):
                return False
            allowed = (int, float) if isinstance(like, float) else (type(like),)
            return type(value) in allowed or isinstance(like, tuple)
    return False
