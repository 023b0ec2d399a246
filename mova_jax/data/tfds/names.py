"""The names of TFDS data sets as sources of videos, and the folders that they stand for.

    tfds:NAME[/CONFIG][/VERSION][?KEY=VALUE&...]    tfds:msr_vtt/1.0.0?frames=video&fps=3
    tfds:FOLDER[?KEY=VALUE&...]                     tfds:/data/msr_vtt/1.0.0?captions=caption/text

A folder starts with `/`, `./`, `../` or `~`, or has a scheme (`gs://`). A name is looked up in
`data_dir`, or in TFDS's own folder; without a version the newest one counts; TFDS's spelling
NAME/CONFIG:VERSION works too. Other keys map a field of a record to a feature (`FIELDS`); the path
of a nested feature has slashes. In a value, `%XX` is a character, as in a URL.
"""

import dataclasses
import math
import os
import re
from urllib.parse import unquote

from tensorflow_datasets.core import Path
from tensorflow_datasets.core.utils.version import list_all_versions

from mova_jax.data.shards import ShardError
from mova_jax.data.shards.tfds_info import DATASET_INFO

PREFIX = "tfds:"
FIELDS = ("frames", "captions", "alternatives", "start", "end", "timestamps", "duration", "id")
SPELLING = (
    "tfds:NAME[/CONFIG][/VERSION] or tfds:FOLDER, then ?KEY=VALUE&... with the keys "
    f"{', '.join(FIELDS)} (features), fps (a number) and data_dir"
)

_VERSIONED = re.compile(r"(.*)[/:](\d+\.\d+\.\d+)")
_NAME = re.compile(r"(\w+)(?:/([\w.\-]+))?")
_FOLDER = re.compile(r"[/~]|\.\.?(/|$)|\w+://")


@dataclasses.dataclass(frozen=True)
class TfdsName:
    """A parsed name; what is not given is '' (fps: None).

    Attributes:
        text: the name as it was given.
        folder: of one version of the data set; then there is no dataset.
        dataset: its name.
        config: of the data set.
        version: of the data set.
        data_dir: the folder in which it is looked up.
        fps: frames a second.
        fields: path of a feature for each field of `FIELDS` that is given.
    """

    text: str
    folder: str = ""
    dataset: str = ""
    config: str = ""
    version: str = ""
    data_dir: str = ""
    fps: float | None = None
    fields: dict[str, str] = dataclasses.field(default_factory=dict)


def parse_name(text: str) -> TfdsName:
    """Parses a name.

    Raises:
        ShardError: the name is not spelled as the module says; lists everything that is wrong.
    """
    where, _, query = text.removeprefix(PREFIX).partition("?")
    wrong = [] if text.startswith(PREFIX) else [f"it does not start with {PREFIX}"]
    keys: dict[str, str] = {}
    for part in filter(None, query.split("&")):
        key, _, value = part.partition("=")
        if key not in (*FIELDS, "fps", "data_dir"):
            wrong.append(f"there is no key {key!r}")
        elif not value:
            wrong.append(f"{key} has no value")
        elif key in keys:
            wrong.append(f"{key} is given twice")
        else:
            keys[key] = unquote(value)
    fps = _number(keys.pop("fps", ""), wrong)
    if fps is not None and "timestamps" in keys:
        wrong.append("give fps or timestamps, not both")
    data_dir = keys.pop("data_dir", "")
    folder, dataset, config, version = _place(unquote(where), data_dir, wrong)
    if wrong:
        raise ShardError(f"{text!r} names no TFDS data set: {'; '.join(wrong)}. Write {SPELLING}.")
    return TfdsName(text, folder, dataset, config, version, data_dir, fps, keys)


def _number(text: str, wrong: list[str]) -> float | None:
    if not text:
        return None
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not 0 < number < math.inf:
        wrong.append(f"fps must be a positive number, got {text!r}")
    return number


def _place(where: str, data_dir: str, wrong: list[str]) -> tuple[str, str, str, str]:
    """Folder, name, config and version; '' for those that are not given."""
    if _FOLDER.match(where):
        if data_dir:
            wrong.append("data_dir is for a name, but there is a folder")
        return where, "", "", ""
    versioned = _VERSIONED.fullmatch(where)
    name, version = versioned.groups() if versioned else (where, "")
    if match := _NAME.fullmatch(name):
        return "", match[1], match[2] or "", version
    wrong.append(f"{where!r} is neither NAME[/CONFIG][/VERSION] nor a folder")
    return "", "", "", ""


def find_folder(name: TfdsName):
    """The folder of a data set, as a path of any file system that TFDS reads.

    Raises:
        ShardError: when it is not there; lists what is.
    """
    if name.folder:
        folder = Path(name.folder).expanduser()
        if not (folder / DATASET_INFO).exists():
            raise ShardError(
                f"{name.text}: {folder} has no {DATASET_INFO}, so it is no TFDS data set. Give the "
                "folder of one version, or make it with tfds build or with python -m "
                "mova_jax.prepare."
            )
        return folder
    root = Path(name.data_dir or os.environ.get("TFDS_DATA_DIR", "~/tensorflow_datasets"))
    root = root.expanduser() / name.dataset
    configs = [name.config] if name.config else [""]
    if not name.config and root.is_dir() and not list_all_versions(root):
        configs = sorted(path.name for path in root.iterdir() if path.is_dir())
    found = {c: [str(version) for version in list_all_versions(root / c)] for c in configs}
    found = {config: versions for config, versions in found.items() if versions}
    if len(found) == 1:
        [(config, versions)] = found.items()
        version = name.version or versions[-1]
        if (root / config / version / DATASET_INFO).exists():
            return root / config / version
    there = [f"{config}/{v}".strip("/") for config, versions in found.items() for v in versions]
    raise ShardError(
        f"{name.text}: not found in {root}, where there is "
        + (", ".join(there) + "; name one of these" if there else "no data set")
        + ". Give data_dir=..., or make the data set with tfds build."
    )
