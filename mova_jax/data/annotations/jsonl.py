"""Your own videos: a JSONL, one video or one cut of a video a line.

In:  captions.jsonl, with the fields of `FIELDS`.
Out: `read_annotations` returns the usable lines as `Item`s, and the reasons of the skipped ones.
"""

import os
import posixpath
from pathlib import Path
from typing import Any, TextIO

from mova_jax.data.annotations.files import json_object
from mova_jax.data.annotations.items import (
    InputError,
    Item,
    Reading,
    clean,
    cut_of,
    is_unicode,
    longest_first,
    noted,
    sentence_of,
    split_name,
)
from mova_jax.data.shards import Caption, check_texts
from mova_jax.data.storage import Folder, escapes, join
from mova_jax.utils.text_files import open_text

FIELDS = """\
  video         path of the file, relative to the folder of the JSONL, inside of it
  caption       what happens in the video, one text of any length; or
  captions      its sentences in order: texts, or {"text", "start", "end"} with seconds, or
                {"text", "windows": [[start, end], ...]} for one that holds several times.
                With both, `captions` are the caption and `caption` is an alternative
  alternatives  optional, further captions of the whole video: a list of texts
  id            optional, unique; otherwise the path (and the cut)
  start, end    optional, seconds: use only this part of the video. The times of sentences are
                always those of the file; sentences outside of the part are dropped
  split         optional; otherwise assigned by --splits, cuts of one video together
  domain        optional, one word, such as surveillance: the suite outdomain tells them apart
Other fields are ignored."""


def read_annotations(path: str | os.PathLike, folder: str | os.PathLike | None = None) -> Reading:
    """Reads a JSONL.

    Args:
        path: of the file.
        folder: of the videos, a path or a URL; by default that of the file.

    Returns:
        The usable lines in order, the reasons of the others, and a guessed encoding as a warning.

    Raises:
        InputError: when there is no such file or it cannot be read.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"There is no file {path}; --input is a JSONL, one video a line.")
    folder = path.parent if folder is None else folder
    try:
        with open_text(path, newline="\n") as (lines, note):
            return _read(lines, folder, [noted(path.name, note)] if note else [])
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error}).") from error


def _read(lines: TextIO, folder: str | os.PathLike, warnings: list[dict[str, str]]) -> Reading:
    items, skipped, seen = [], [], {}
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        name = f"line {number}"
        try:
            fields = _fields(line)
            name = _identity(fields)
            if name in seen:
                raise ValueError(f"the id was already used in line {seen[name]}")
            items.append(_item(name, fields, folder))
            seen[name] = number
        except ValueError as error:
            where = "" if name == f"line {number}" else f"line {number}: "
            skipped.append(noted(name, f"{where}{error}"))
    return Reading(items, skipped, warnings)


def _fields(line: str) -> dict[str, Any]:
    fields = json_object(line.strip())
    if not isinstance(fields.get("video"), str) or not fields["video"]:
        raise ValueError(f"`video` must be a path, got {fields.get('video')!r}")
    if "\0" in fields["video"] or not is_unicode(fields["video"]):
        raise ValueError(f"the path {fields['video']!r} has a null byte or is not valid Unicode")
    return fields


def _identity(fields: dict[str, Any]) -> str:
    name = fields.get("id")
    if name is None:
        cut = [fields.get("start"), fields.get("end")]
        name = fields["video"] + ("" if cut == [None, None] else f"#{cut[0]}-{cut[1]}")
    if isinstance(name, bool) or not isinstance(name, str | int) or not clean(str(name)):
        raise ValueError(f"`id` must be a text, got {name!r}")
    return clean(str(name))


def _item(name: str, fields: dict[str, Any], folder: str | os.PathLike) -> Item:
    video = fields["video"]
    inside = posixpath.normpath(video)
    if escapes(video):
        raise ValueError(f"the path {video!r} leaves the folder of the JSONL")
    if Folder(folder).links_outside(inside):
        raise ValueError(f"the path {video!r} is a link that leads out of the folder of the JSONL")
    start, end = cut_of(fields.get("start"), fields.get("end"))
    split = split_name(fields.get("split"))
    domain = fields.get("domain") or ""
    if not isinstance(domain, str):
        raise ValueError(f"`domain` must be a text, got {domain!r}")
    captions, alternatives, warnings = _captions(fields)
    check_texts(captions, alternatives)
    return Item(
        id=name,
        video=inside,
        path=join(folder, inside),
        captions=captions,
        alternatives=alternatives,
        start=start,
        end=end,
        split=split,
        warnings=warnings,
        domain=clean(domain),
    )


def _captions(fields: dict[str, Any]):
    """The sentences, the alternatives, and warnings about them."""
    whole, listed = fields.get("caption"), fields.get("captions")
    others = fields.get("alternatives") or []
    if not isinstance(whole, str | None) or not isinstance(listed, list | None):
        raise ValueError("`caption` must be a text and `captions` a list")
    if not isinstance(others, list) or not all(isinstance(text, str) for text in others):
        raise ValueError("`alternatives` must be a list of texts")
    sentences, warnings = [], []
    for position, entry in enumerate(listed or []):
        entry = {"text": entry} if isinstance(entry, str) else entry
        if not isinstance(entry, dict) or not isinstance(entry.get("text"), str):
            raise ValueError(f"captions[{position}] must be a text or have a `text`: {entry!r}")
        times = entry.get("start"), entry.get("end")
        if entry.get("windows"):
            times = longest_first(entry["windows"], f"captions[{position}].windows")
        sentence, wrong = sentence_of(entry["text"], *times)
        if wrong:
            warnings.append(f"captions[{position}] {wrong}")
        sentences.append(sentence)
    sentences = [sentence for sentence in sentences if sentence.text]
    alternatives = [clean(text) for text in ([whole] if whole else []) + others]
    alternatives = [text for text in alternatives if text]
    if not sentences:
        if not alternatives:
            raise ValueError("the caption is empty")
        sentences = [Caption(alternatives.pop(0))]
    return tuple(sentences), tuple(alternatives), tuple(warnings)
