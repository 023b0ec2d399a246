"""Configurations of earlier versions, read as what they are now."""

import copy
from typing import Any

# Values of earlier versions, and what they are called now.
FORMER = {"model.remat": {False: "none", True: "full"}}


def upgrade(values: dict[str, Any], prefix: str = "") -> tuple[dict[str, Any], list[str]]:
    """A configuration, or a section of one, of any version as one of this version.

    Args:
        values: nested, as in JSON.
        prefix: the section's dotted name with a dot at the end.

    Returns:
        The nested values, and problems.
    """
    values, problems = copy.deepcopy(values), []
    for name, former in FORMER.items():
        section, key = _find(values, name, prefix)
        if type(section.get(key)) is bool:
            section[key] = former[section[key]]
    return values, problems


def _find(values: dict[str, Any], name: str, prefix: str) -> tuple[dict[str, Any], str]:
    """The section that has the key of that dotted name, empty where there is none; the key."""
    if not name.startswith(prefix):
        return {}, ""
    *path, key = name.removeprefix(prefix).split(".")
    for part in path:
        values = values.get(part)
        if not isinstance(values, dict):
            return {}, key
    return values, key
