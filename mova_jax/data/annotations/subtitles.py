"""Your own videos with subtitle files: WebVTT or SRT, a cue is a sentence with its times.

    a.mp4  a.vtt        or  a.srt, or with a language: a.en.vtt

`--annotations` is the folder of the subtitles, by default that of the videos. Of several files for
one video the first by name counts. Markup, positions and notes are dropped.
"""

import html
import re
from pathlib import Path

from mova_jax.data.annotations.intake import Dataset, Intake
from mova_jax.data.annotations.items import InputError

_SUFFIXES = (".vtt", ".srt")
_LANGUAGE = re.compile(r"\.[a-zA-Z]{2,3}(-[a-zA-Z0-9]{2,8})*$")
_TIME = r"(?:(\d+):)?(\d{1,2}):(\d{1,2})[.,](\d{1,3})"
_CUE = re.compile(rf"^\s*{_TIME}\s*-->\s*{_TIME}(?:\s.*)?$")
_MARKUP = re.compile(r"<[^>]*>|\{\\[^}]*\}")


def read(annotations: Path, intake: Intake) -> None:
    """Reads all subtitles of a folder; see `Dataset.read`."""
    if not annotations.is_dir():
        raise InputError(f"{annotations} is not a folder; --annotations has the subtitles.")
    files = sorted(
        path
        for path in annotations.rglob("*")
        if path.suffix.lower() in _SUFFIXES and path.is_file()
    )
    if not files:
        raise InputError(f"There are no subtitles ({', '.join(_SUFFIXES)}) in {annotations}.")
    for file in files:
        inside = file.relative_to(annotations).with_suffix("").as_posix()
        name = _LANGUAGE.sub("", inside)
        try:
            sentences = parse(file.read_bytes())
        except OSError as error:
            intake.skip(inside, f"{file.name} cannot be read ({error.strerror})")
            continue
        if not sentences:
            intake.skip(inside, f"{file.name} has no cue with times and text")
            continue
        intake.add(name, sentences, files=(inside, name, Path(inside).name, Path(name).name))


def parse(data: bytes) -> list[tuple[str, float, float]]:
    """The cues of a WebVTT or SRT file, in order: text, start and end in seconds."""
    encoding = "utf-16" if data[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig"
    text = data.decode(encoding, "replace").replace("\r\n", "\n").replace("\r", "\n")
    cues = []
    for block in re.split(r"\n[ \t]*\n", text):
        lines = block.strip("\n").split("\n")
        for number, line in enumerate(lines):
            # A cue may have a name or a number above its times, but no text.
            if number < 2 and (found := _CUE.match(line)):
                words = html.unescape(_MARKUP.sub("", " ".join(lines[number + 1 :]))).strip()
                start, end = _seconds(found.groups()[:4]), _seconds(found.groups()[4:])
                cues += [(words, start, end)] if words else []
                break
    return cues


def _seconds(parts: tuple[str | None, ...]) -> float:
    hours, minutes, whole, fraction = (part or "0" for part in parts)
    return 3600.0 * int(hours) + 60 * int(minutes) + int(whole) + float(f"0.{fraction}")


DATASET = Dataset(
    name="subtitles",
    read=read,
    files="a .vtt or .srt for each video, of the same name",
)
