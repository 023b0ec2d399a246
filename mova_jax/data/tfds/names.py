"""How a TFDS data set is named as a source of videos, and where it lies.

    tfds:NAME[/CONFIG][/VERSION][?KEY=VALUE&...]    tfds:msr_vtt/1.0.0?frames=video&fps=3
    tfds:FOLDER[?KEY=VALUE&...]                     tfds:/data/msr_vtt/1.0.0?captions=caption/text

A folder starts with `/`, `./`, `../` or `~`, or has a scheme (`gs://`). A name is looked for in
`data_dir`, or where TFDS keeps its data; without a version the newest one counts; TFDS's own
NAME/CONFIG:VERSION is understood. Other keys say which feature is what (`FIELDS`); a feature in
another one is written with a slash. In a value, `%XX` stands for a character, as in an address.
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
    """A name that was taken apart.

    Attributes:
        text: the name as it was given.
        folder: of the data set itself; '' when it is to be looked for.
        dataset: its name, when there is no folder.
        config: '' when not given.
        version: '' when not given.
        data_dir: in which it is looked for; '' when not given.
        fps: frames a second; None when not given.
        fields: features by the field of `FIELDS` that they are.
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
    """Takes a name apart.

    Raises:
        ShardError: on a name that is not spelled as in the module; says all that is wrong.
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
    """Folder, name, config and version, of which those that are not given are ''."""
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
        ShardError: when it is not there; says what is.
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
