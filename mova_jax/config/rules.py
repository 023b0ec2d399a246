"""Rules between keys, and the forms of those that hold pairs.

A rule takes the values that are legal by themselves, by dotted name, and returns its problems. It
raises KeyError when a value that it reads is not there, because that has a problem of its own.
"""

import math
import re
from collections.abc import Callable
from typing import Any

from mova_jax.config.schema import weights


def _patches(v: dict[str, Any]) -> list[str]:
    size, patch = v["model.vision.image_size"], v["model.vision.patch_size"]
    if size % patch == 0:
        return []
    return [f"model.vision.image_size {size} is not a multiple of model.vision.patch_size {patch}"]


def _rgb(name: str, above: float):
    """The rule that a key holds three finite numbers above a bound."""

    def rule(v: dict[str, Any]) -> list[str]:
        numbers = v[name]
        sound = len(numbers) == 3 and all(type(x) in (int, float) for x in numbers)
        if sound and all(above < x < math.inf for x in numbers):
            return []
        bound = "" if above == -math.inf else f" above {above:g}"
        return [f"{name}: got {numbers}, expected three numbers{bound}, of red, green and blue"]

    return rule


def _heads(heads: str, width: str):
    """The rule that a number of heads divides a width."""

    def rule(v: dict[str, Any]) -> list[str]:
        if v[width] % v[heads] == 0:
            return []
        return [f"{heads}: {v[heads]} heads do not divide {width} {v[width]}"]

    return rule


def _at_most(small: str, large: str, *, below: bool = False):
    """The rule that a value is at most (or below) another."""

    def rule(v: dict[str, Any]) -> list[str]:
        if v[small] < v[large] or (v[small] == v[large] and not below):
            return []
        relation = "under" if below else "at most"
        return [f"{small} {v[small]} must be {relation} {large} {v[large]}"]

    return rule


def _token_buckets(v: dict[str, Any]) -> list[str]:
    buckets, context = v["data.token_buckets"], v["model.text.context"]
    whole = bool(buckets) and all(type(n) is int and n > 0 for n in buckets)
    if whole and list(buckets) == sorted(set(buckets)) and buckets[-1] == context:
        return []
    return [
        f"data.token_buckets: got {buckets}, expected rising lengths that end at "
        f"model.text.context = {context}"
    ]


def _needs(what: str, there: Callable[[dict[str, Any]], bool], advice: str):
    """The rule that weights of terms that need something are 0 in models without it."""
    names = weights(what)

    def rule(v: dict[str, Any]) -> list[str]:
        if there(v) or not any(v[name] for name in names):
            return []
        return [f"{' and '.join(names)} need {advice}"]

    return rule


def _has_masks(v: dict[str, Any]) -> bool:
    return v["model.tmn.layout"] != "none" or v["model.cmn.kind"] != "none"


def _dfsm_sees_all_pairs(v: dict[str, Any]) -> list[str]:
    if not v["losses.hard_pairs"] or not v["losses.dfsm"] or v["losses.dfsm_masks"] != "pair":
        return []
    return [
        "losses.dfsm_masks = 'pair' needs the score of every pair: set losses.hard_pairs to 0, "
        "losses.dfsm to 0, or losses.dfsm_masks to 'own' or 'none'"
    ]


def _order(v: dict[str, Any]) -> list[str]:
    if not v["losses.order"] or (v["data.parts"] and v["losses.pool"] == "logmeanexp"):
        return []
    return ["losses.order needs data.parts > 0 and losses.pool = 'logmeanexp': set it to 0"]


def _own_masks_of_parts(v: dict[str, Any]) -> list[str]:
    if v["losses.dfsm_masks"] != "own" or not v["losses.dfsm"] or not v["data.parts"]:
        return []
    return ["losses.dfsm_masks = 'own' is of whole captions: set data.parts to 0"]


def _attention(v: dict[str, Any]) -> list[str]:
    if v["model.attention"] != "cudnn" or v["model.dtype"] == "bfloat16":
        return []
    return ["model.attention = 'cudnn' computes in bfloat16 only: set model.dtype to it"]


def _microbatch(v: dict[str, Any]) -> list[str]:
    rows, size = v["train.microbatch"], v["train.batch_size"]
    if not rows or size % rows == 0:
        return []
    return [
        f"train.microbatch: got {rows}, expected 0 (all rows at once), or what divides "
        f"train.batch_size {size}"
    ]


def _mesh_sizes(v: dict[str, Any]) -> list[str]:
    sizes = {name: v[name] for name in ("mesh.data", "mesh.fsdp", "mesh.tensor")}
    lines = [
        f"{name}: got 0, expected a number of devices, or -1 for what is left"
        for name, size in sizes.items()
        if not size
    ]
    if list(sizes.values()).count(-1) > 1:
        lines.append(f"{', '.join(n for n in sizes if sizes[n] == -1)}: only one of them may be -1")
    return lines


def _mixture(v: dict[str, Any]) -> list[str]:
    """Each source a (name, weight) pair, once."""
    mixture = v["data.mixture"]
    if all(map(_is_share, mixture)) and len({name for name, _ in mixture}) == len(mixture):
        return []
    return [
        f"data.mixture: got {mixture}, expected (folder or tfds:name, weight > 0) pairs, each "
        "source once"
    ]


def _is_share(share) -> bool:
    match share:
        case (str(), bool()):
            return False
        case (str(name), int() | float() as weight):
            return bool(name) and 0 < weight < math.inf
    return False


def _cache(v: dict[str, Any]) -> list[str]:
    if "://" not in v["data.cache"]:
        return []
    return [f"data.cache: got the URL {v['data.cache']}, expected a folder on this machine"]


def _groups(v: dict[str, Any]) -> list[str]:
    """Each group a (regex, factor) pair; the last catches all."""
    groups = v["optim.groups"]
    if groups and all(map(_is_group, groups)) and groups[-1][0] == ".*":
        return []
    return [f"optim.groups: got {groups}, expected (regex, factor >= 0) pairs, the last for '.*'"]


def _is_group(group) -> bool:
    match group:
        case (str(pattern), int() | float() as factor) if 0 <= factor < math.inf:
            try:
                re.compile(pattern)
            except re.error:
                return False
            return True
    return False


RULES = (
    _patches,
    _rgb("model.vision.mean", -math.inf),
    _rgb("model.vision.std", 0.0),
    _at_most("model.text.frozen_positions", "model.text.context", below=True),
    _heads("model.vision.heads", "model.vision.width"),
    _heads("model.text.heads", "model.text.width"),
    _token_buckets,
    _mixture,
    _cache,
    _needs("masks", _has_masks, "masks: set them to 0, or choose a model.tmn.layout"),
    _needs(
        "masks_or_parts",
        lambda v: _has_masks(v) or v["data.parts"] > 0,
        "masks or divided captions: set them to 0, or data.parts above 0",
    ),
    _needs("modular_scale", lambda v: v["model.modular_scale"] > 0, "model.modular_scale > 0"),
    _dfsm_sees_all_pairs,
    _order,
    _own_masks_of_parts,
    _at_most("losses.hard_pairs", "train.batch_size", below=True),
    _at_most("optim.warmup_steps", "train.steps", below=True),
    _attention,
    _microbatch,
    _mesh_sizes,
    _groups,
)
