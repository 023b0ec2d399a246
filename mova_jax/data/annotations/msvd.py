"""MSVD: short clips, about 40 captions each; every caption is a query.

    raw-captions.pkl                            {video id: [[token, ...], ...]}, or
    captions_msvd.json                          {video id: ["...", ...]}
    train_list.txt, val_list.txt, test_list.txt one video id a line

The tokens of a caption are joined by spaces. The first caption of a video is its caption, the
others are alternatives. Reading the pickle runs no code of it.

Format: CLIP4Clip, dataloaders/dataloader_msvd_retrieval.py; of the JSON: xpool, data/MSVD. Counts:
collaborative-experts, misc/datasets/msvd/README.md, where the lists come from.
"""

from pathlib import Path

from mova_jax.data.annotations.files import check, one_of, read_json, read_lines, read_plain_pickle
from mova_jax.data.annotations.intake import Dataset, Intake
from mova_jax.data.annotations.items import ALL
from mova_jax.utils.text_files import decode_text

_LISTS = {"train": "train_list.txt", "validation": "val_list.txt", "test": "test_list.txt"}


def read(annotations: Path, intake: Intake) -> None:
    """Reads the captions and the three lists; see `Dataset.read`."""
    file = one_of(annotations, "raw-captions.pkl", "captions_msvd.json")
    is_json = file.suffix == ".json"
    captions = read_json(file, intake.warn)[0] if is_json else read_plain_pickle(file)
    fits = isinstance(captions, dict) and any(isinstance(v, list) for v in captions.values())
    check(file, fits, "a dict {video id: [[token, ...], ...]}", captions)
    guessed: list[str] = []
    captions = {_text(key, guessed): value for key, value in captions.items()}
    for split, name in _LISTS.items():
        for video in read_lines(one_of(annotations, name), intake.warn):
            try:
                texts = _sentences(captions.get(video), file.name, guessed)
            except ValueError as error:
                intake.skip(video, error)
                continue
            intake.add(video, texts[:1], alternatives=texts[1:], split=split)
    if guessed:
        note = f"{len(guessed)} words are not UTF-8 and were read as cp1252"
        intake.warn(file.name, f"{note}, such as {guessed[0]!r}")


def _sentences(captions, file: str, guessed: list[str]) -> list[str]:
    if not isinstance(captions, list | tuple) or not captions:
        raise ValueError(f"{file} has no captions for it")
    texts = []
    for caption in captions:
        tokens = caption if isinstance(caption, list | tuple) else [caption]
        if not all(isinstance(token, str | bytes) for token in tokens):
            raise ValueError(f"a caption must be a list of tokens, got {caption!r}")
        texts.append(" ".join(_text(token, guessed) for token in tokens))
    return texts


def _text(value, guessed: list[str]) -> str:
    """A text of Python 2 or 3; appends those whose encoding had to be guessed."""
    text, note = decode_text(value) if isinstance(value, bytes) else (str(value), "")
    guessed += [text] * bool(note)
    return text


DATASET = Dataset(
    name="msvd",
    read=read,
    files="raw-captions.pkl or captions_msvd.json, and train_list.txt, val_list.txt, test_list.txt",
    expected={"train": 1_200, "validation": 100, "test": 670},
    licence="MSVD (Microsoft Research Video Description Corpus): see its owner's page.",
    recipe="configs/msvd.py",
    queries=ALL,
)
