"""Configurations of earlier versions, read as what they are now."""

import copy
from typing import Any, NamedTuple

ANY = object()  # the key changed no figure, so a configuration may have any value of it


class Dropped(NamedTuple):
    """A key of earlier versions."""

    value: Any = None  # that the code has in its place
    same_as: str = ""  # the key whose value the code takes in its place
    only: tuple[str, Any] | None = None  # a key, and its value where this one was read

    def __str__(self) -> str:
        if self.value is ANY:
            return "chosen by the program"
        return f"the value of {self.same_as}" if self.same_as else repr(self.value)


DROPPED = {
    "model.tmn.heads": Dropped(same_as="model.text.heads"),
    "model.cmn.heads": Dropped(same_as="model.text.heads"),
    "model.tmn.token_layers": Dropped(0),
    "model.masks.temperature": Dropped(1.0),
    "model.head_layers": Dropped(4, only=("model.global_head", "seq_transformer")),
    "losses.frame_form": Dropped("hinge"),
    "losses.pool_scale": Dropped(10.0),
    "losses.pair_block": Dropped(ANY),
    "losses.warmup_steps": Dropped(0),
    "losses.detach_towers": Dropped(False),
    "data.threads": Dropped(ANY),
    "data.prefetch": Dropped(ANY),
    "optim.b1": Dropped(0.9),
    "optim.b2": Dropped(0.98),
    "optim.eps": Dropped(1e-6),
    "train.image_batch_size": Dropped(0),
    "eval.gallery": Dropped(0),
    "eval.timelines": Dropped(ANY),
}
# Values of earlier versions, and what they are called now.
FORMER = {"model.remat": {False: "none", True: "full"}}


def upgrade(values: dict[str, Any], prefix: str = "") -> tuple[dict[str, Any], list[str]]:
    """A configuration, or a section of one, of any version as one of this version.

    Args:
        values: nested, as in JSON.
        prefix: the section's dotted name with a dot at the end; '' for the whole.

    Returns:
        The nested values without dropped keys, and a problem for each dropped key whose value is
        not the one that the code has now.
    """
    values, problems = copy.deepcopy(values), []

    def place(name: str) -> tuple[dict[str, Any], str]:
        """The section of a key and its name in it; an empty section where there is none."""
        section, (*path, key) = values, name.removeprefix(prefix).split(".")
        for part in path:
            section = section.get(part)
            if not isinstance(section, dict):
                return {}, key
        return section, key

    def value_of(name: str) -> Any:
        section, key = place(name)
        return section.get(key)

    for name, dropped in DROPPED.items():
        section, key = place(name)
        if not name.startswith(prefix) or key not in section:
            continue
        found = section.pop(key)
        expected = value_of(dropped.same_as) if dropped.same_as else dropped.value
        was_read = not dropped.only or value_of(dropped.only[0]) == dropped.only[1]
        if expected is not ANY and found != expected and was_read:
            problems.append(
                f"{name}: got {found!r}, but it is no key any more and always {dropped}: remove it "
                "to have that, or use the mova_jax that the configuration was made with"
            )
    for name, former in FORMER.items():
        section, key = place(name)
        if type(section.get(key)) is bool:
            section[key] = former[section[key]]
    return values, problems
