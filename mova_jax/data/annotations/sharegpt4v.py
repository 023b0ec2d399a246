"""ShareGPT4V: images with long captions; an image is a video of one frame.

    share-captioner_coco_lcs_sam_1246k_1107.json, or sharegpt4v_instruct_gpt4-vision_cap100k.json
        [{"id": "...", "image": "coco/train2017/000000000009.jpg",
          "conversations": [{"from": "human", "value": "..."}, {"from": "gpt", "value": "..."}]}]

`--annotations` is the folder (the first of the two files that exists is read) or a file of this
format. The caption is the first answer of "gpt". `image` is a path in the folder of the images, in
the owners' layout (coco/, sam/, llava/ ...). There are no splits: `--splits` assigns the images.

Format: the owners' docs/Data.md, and LLaVA's conversations, which it follows. The counts there are
rounded (102K, 1,246K): none is checked.
"""

from pathlib import Path

from mova_jax.data.annotations.files import check, one_of, read_json
from mova_jax.data.annotations.intake import Dataset, Intake
from mova_jax.data.annotations.videos import IMAGE_EXTENSIONS

_FILES = (
    "share-captioner_coco_lcs_sam_1246k_1107.json",
    "sharegpt4v_instruct_gpt4-vision_cap100k.json",
)


def read(annotations: Path, intake: Intake) -> None:
    """Reads one file; see `Dataset.read`."""
    file = one_of(annotations, *_FILES, alone=True)
    entries, _ = read_json(file, intake.warn)
    fits = isinstance(entries, list) and any(
        isinstance(entry, dict) and {"image", "conversations"} <= set(entry) for entry in entries
    )
    check(file, fits, 'a list of {"image", "conversations"}', entries)
    for position, entry in enumerate(entries):
        try:
            image, caption = _caption(entry)
        except ValueError as error:
            intake.skip(f"entry {position}", error)
            continue
        intake.add(image, [caption])


def _caption(entry) -> tuple[str, str]:
    """The image of an entry, and the first answer about it."""
    image = entry.get("image") if isinstance(entry, dict) else None
    if not isinstance(image, str) or not image:
        raise ValueError("it has no `image`")
    turns = entry.get("conversations")
    for turn in turns if isinstance(turns, list) else []:
        if isinstance(turn, dict) and turn.get("from") == "gpt":
            if isinstance(turn.get("value"), str):
                return image, turn["value"]
    raise ValueError(f"{image}: `conversations` has no answer of 'gpt'")


DATASET = Dataset(
    name="sharegpt4v",
    read=read,
    files=f"{_FILES[0]} or {_FILES[1]}",
    licence="ShareGPT4V: CC BY-NC 4.0, says its card; images each under their own terms.",
    extensions=IMAGE_EXTENSIONS,
    recipe="configs/warmup.py",
)
