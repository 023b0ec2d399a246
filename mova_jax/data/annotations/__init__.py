"""Readers of annotations: your own files and published data sets.

Every reader makes `Item`s, and gives reasons for the entries that it skips (`items.py`). `jsonl.py`
reads your own JSONL, `registry.py` knows the data sets by name, one module each.
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
