"""What is said of videos: readers of your own files and of published data sets.

Every reader makes `Item`s and reasons against what it leaves out (`items.py`). `jsonl.py` reads
your own JSONL, `registry.py` knows the data sets by name, one module each.
"""

from mova_jax.data.annotations.items import (
    LONGEST,
    SPLIT_NAME,
    InputError,
    Item,
    Reading,
    assign_splits,
)
from mova_jax.data.annotations.jsonl import FIELDS, read_annotations

__all__ = [
    "FIELDS",
    "LONGEST",
    "SPLIT_NAME",
    "InputError",
    "Item",
    "Reading",
    "assign_splits",
    "read_annotations",
]
