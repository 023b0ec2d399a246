"""Folders of videos and annotations, laid out as the owners of a data set publish them."""

import csv
import json

import pytest

from mova_jax.data.annotations.registry import read_dataset


class Room:
    """Writes annotations and video files, and reads them as a data set."""

    def __init__(self, folder):
        self.videos, self.annotations = folder / "videos", folder / "annotations"
        self.videos.mkdir()
        self.annotations.mkdir()

    def film(self, *names, content=b"x"):
        for name in names:
            (self.videos / name).parent.mkdir(parents=True, exist_ok=True)
            (self.videos / name).write_bytes(content)

    def write(self, name, content):
        """Writes bytes, a text, or anything else as JSON."""
        if not isinstance(content, bytes):
            content = (content if isinstance(content, str) else json.dumps(content)).encode()
        (self.annotations / name).write_bytes(content)
        return self.annotations / name

    def table(self, name, *rows, delimiter=","):
        with (self.annotations / name).open("w", newline="") as file:
            csv.writer(file, delimiter=delimiter).writerows(rows)

    def read(self, dataset, annotations=None):
        self.reading = read_dataset(dataset, annotations or self.annotations, self.videos)
        return {item.id: item for item in self.reading.items}

    @property
    def skipped(self):
        return {entry["id"]: entry["reason"] for entry in self.reading.skipped}


@pytest.fixture
def room(tmp_path):
    return Room(tmp_path)
