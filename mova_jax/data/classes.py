"""Files that say which classes there are, for zero-shot classification.

    {"classes": {"archery": ["archery", "shooting arrows"], "bowling": "bowling"},
     "templates": ["a video of {}.", "a person doing {}."],
     "videos": {"clip_0001": "archery"}}

A class has a label and one or several names, which are put into the templates ("{}" alone where
there are none). "videos" has the labels of videos by their ids; it can be left out where the first
caption of each video is a label or a name.
"""

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from mova_jax.utils.text_files import parse_json


class Classes(NamedTuple):
    """The classes of a file."""

    names: Mapping[str, tuple[str, ...]]  # by label
    templates: tuple[str, ...]  # each with {} in the place of the name
    videos: Mapping[str, str]  # label by id of video; may be empty


class ClassesError(ValueError):
    """Classes that cannot be used; the message says why."""


def read_classes(path: str | os.PathLike) -> Classes:
    """Reads a file of classes, see the module.

    Raises:
        FileNotFoundError: there is no such file.
        ClassesError: it is not a file of classes.
    """
    try:
        return _checked(parse_json(Path(path).read_text(encoding="utf-8")))
    except ValueError as error:
        raise ClassesError(
            f'{path} is not a file of classes: {error}; expected {{"classes": {{label: name or '
            '[names]}, "templates": ["a photo of a {}."]}, and "videos": {id: label} where '
            "captions are not labels"
        ) from error


def _checked(fields: Any) -> Classes:
    if not isinstance(fields, dict) or not isinstance(fields.get("classes"), dict):
        raise ValueError('it has no "classes"')
    names = {
        label: (value,) if isinstance(value, str) else value
        for label, value in fields["classes"].items()
    }
    for label, value in names.items():
        if not value or not _texts(value):
            raise ValueError(f"class {label!r} has {value!r}, expected a name or a list of names")
    templates, videos = fields.get("templates", ["{}"]), fields.get("videos", {})
    if not names or not templates or not _texts(templates):
        raise ValueError("it has no class or no template")
    if missing := [template for template in templates if "{}" not in template]:
        raise ValueError(f"template {missing[0]!r} has no {{}} in the place of the name")
    if not isinstance(videos, dict) or not _texts([*videos.values()]):
        raise ValueError('"videos" has to give a label for each id')
    if shared := list(_shared_names(names)):
        raise ValueError(f"{shared[0]!r} is a name of two classes")
    return Classes({k: tuple(v) for k, v in names.items()}, tuple(templates), videos)


def _texts(values: Any) -> bool:
    return isinstance(values, list | tuple) and all(isinstance(v, str) and v for v in values)


def _shared_names(names: Mapping[str, tuple[str, ...]]) -> Iterator[str]:
    """Names by which two classes could be meant."""
    seen: dict[str, str] = {}
    for label, values in names.items():
        for name in (label, *values):
            if seen.setdefault(name.strip().casefold(), label) != label:
                yield name
