"""What `prepare` has done so far, kept in `.partial` of its output until all is done.

    items/KEY.record, items/KEY.json          a record that is in no shard yet; what became of it
    shards/DIGEST.array_record, DIGEST.json   a whole shard; its keys, and what became of them

A KEY names all that a record depends on (`tasks.py`), a DIGEST the keys in a shard in their order,
so what has the right name is right, whoever made it, and when. The .json is written last: what has
none is not there. Any number of processes, on any machines, may write at the same time.
"""

import dataclasses
import hashlib
import json
from collections.abc import Container, Iterable, Iterator, Sequence
from typing import Any

from mova_jax.data.shards import (
    SHARD_BYTES,
    SHARD_RECORDS,
    ShardError,
    read_shard,
    reraise_as_shard_error,
    write_shard,
)
from mova_jax.data.storage import Folder

PARTIAL = ".partial"
_ITEMS = f"{PARTIAL}/items"
_SHARDS = f"{PARTIAL}/shards"
_RECORD, _SHARD, _DONE = ".record", ".array_record", ".json"
_PASSING = ".passing"  # in place of .json: a reason that may not be there at the next call
_READ_AT_ONCE = 16  # records, which bounds the memory


@dataclasses.dataclass(frozen=True)
class ItemResult:
    """What became of an item: a record, or the reason why there is none.

    Attributes:
        reason: why there is no record, or ''.
        warnings: on the record.
        texts: its caption and its alternatives.
        frames: their number.
        captions: number of sentences.
        size: of the record, bytes.
        sha256: of the record.
    """

    reason: str = ""
    warnings: tuple[str, ...] = ()
    texts: tuple[str, ...] = ()
    frames: int = 0
    captions: int = 0
    size: int = 0
    sha256: str = ""

    @classmethod
    def of(cls, data: bytes, frames: int, captions: int, texts, warnings) -> "ItemResult":
        """The outcome that is a record."""
        digest = hashlib.sha256(data).hexdigest()
        return cls("", tuple(warnings), tuple(texts), frames, captions, len(data), digest)

    def to_json(self) -> bytes:
        """As it is stored."""
        return json.dumps(dataclasses.asdict(self)).encode()

    @classmethod
    def from_json(cls, data: bytes | dict) -> "ItemResult | None":
        """As it was stored; None when that was cut off by a loss of power."""
        try:
            fields = data if isinstance(data, dict) else json.loads(data)
            lists = {name: tuple(fields[name]) for name in ("warnings", "texts")}
            return cls(**fields | lists)
        except (ValueError, TypeError, KeyError):
            return None


@dataclasses.dataclass(frozen=True)
class Packed:
    """A whole shard: what is in it in order, its size and its hash."""

    outcomes: dict[str, ItemResult]
    size: int
    sha256: str


class ShardPlan:
    """Shares records out over shards: by their order and their sizes, and nothing else."""

    def __init__(self):
        """Starts with no shard."""
        self.shards: dict[str, list[list[str]]] = {}
        self._bytes: dict[str, int] = {}

    def add(self, split: str, key: str, size: int) -> list[str]:
        """Adds the next record of a split; returns the keys of its shard if that is full now."""
        shards = self.shards.setdefault(split, [])
        if split not in self._bytes:
            shards.append([])
            self._bytes[split] = 0
        shards[-1].append(key)
        self._bytes[split] += size
        if len(shards[-1]) >= SHARD_RECORDS or self._bytes[split] >= SHARD_BYTES:
            del self._bytes[split]
            return shards[-1]
        return []

    def open_shards(self) -> dict[str, list[str]]:
        """The keys of the shards that are not full, by split."""
        return {split: self.shards[split][-1] for split in self._bytes}


class PartialOutput:
    """The records and shards that are done; can be pickled."""

    def __init__(self, folder: Folder):
        """Takes the output folder."""
        self._folder = folder

    def restore(self, items: Sequence[tuple[str, str]]) -> dict[str, ItemResult]:
        """Takes stock of what earlier calls left, and removes what none of them finished.

        What is finished stays, also what these items do not ask for: they may be fewer than was
        meant, by a folder that is not mounted or a slip of the pen.

        Args:
            items: split and key of every item, in order.

        Returns:
            What became of those that are done.
        """
        wanted = {key for _, key in items}
        records = self.keys(_RECORD)
        alone = {
            key: result
            for key, result in self.outcomes(wanted & self.keys()).items()
            if not result.size or key in records
        }
        packed = self._whole_shards()
        known = dict(alone)
        for shard in packed.values():
            known |= {key: result for key, result in shard.outcomes.items() if key in wanted}
        certain = set(map(_digest, _certain_shards(items, known)))
        for digest, shard in list(packed.items()):
            if digest not in certain and wanted & shard.outcomes.keys():
                if not self._unpack(digest, packed.pop(digest), alone):
                    return self.restore(items)  # it was damaged, and is gone
        in_shards = {key for shard in packed.values() for key in shard.outcomes}
        damaged = wanted - known.keys()
        self._remove_others(_ITEMS, self.keys() - in_shards - damaged)
        self._remove_others(_SHARDS, packed)
        return known

    def has_records(self) -> bool:
        """Whether there is a video that need not be decoded again."""
        names = [*self._folder.names(_ITEMS), *self._folder.names(_SHARDS)]
        return any(name.endswith((_RECORD, _SHARD)) for name in names)

    def is_empty(self) -> bool:
        """Whether nothing was done that another call could go on from."""
        return not any(map(self._folder.names, (_ITEMS, _SHARDS)))

    def result(self, key: str) -> ItemResult | None:
        """What became of an item that is in no shard yet; None when it is not done."""
        try:
            return ItemResult.from_json(self._folder.read(f"{_ITEMS}/{key}{_DONE}"))
        except FileNotFoundError:
            return None

    def keys(self, end: str = _DONE) -> set[str]:
        """The items that are done and in no shard yet."""
        names = self._folder.names(_ITEMS)
        return {name.removesuffix(end) for name in names if name.endswith(end)}

    def outcomes(self, keys: Iterable[str], end: str = _DONE) -> dict[str, ItemResult]:
        """What became of many, each of which must be there."""
        keys = list(keys)
        texts = self._folder.read_all(f"{_ITEMS}/{key}{end}" for key in keys)
        found = zip(keys, map(ItemResult.from_json, texts), strict=True)
        return {key: result for key, result in found if result}

    def retry_results(self) -> dict[str, ItemResult]:
        """Reasons of this call that another call will not know."""
        return self.outcomes(self.keys(_PASSING), _PASSING)

    def keep(self, key: str, result: ItemResult, data: bytes, may_pass: bool = False) -> None:
        """Stores what became of an item, and its record.

        Args:
            key: of the item.
            outcome: what became of it.
            data: the record; b'' when there is none.
            may_pass: whether another call is to try again.

        Raises:
            ShardError: when it cannot be stored.
        """
        with reraise_as_shard_error(f"A record cannot be written to {self._folder}"):
            if result.size:
                self._folder.write(f"{_ITEMS}/{key}{_RECORD}", data)
            end = _PASSING if may_pass else _DONE
            self._folder.write(f"{_ITEMS}/{key}{end}", result.to_json())

    def pack(self, keys: Sequence[str]) -> Packed:
        """Makes a shard of records, which are then in the shard alone; or finds it made.

        Raises:
            ShardError: when it cannot be stored, or a record is damaged.
        """
        digest = _digest(keys)
        done = f"{_SHARDS}/{digest}{_DONE}"
        try:
            return _packed_of(json.loads(self._folder.read(done)))
        except FileNotFoundError:
            pass
        with reraise_as_shard_error(f"A shard cannot be written to {self._folder}"):
            outcomes = self.outcomes(keys)
            if lost := set(keys) - outcomes.keys():
                raise ShardError(f"{self._folder}/{_ITEMS}/{min(lost)} is damaged; run again.")
            with self._folder.writing(shard_name(keys)) as path:
                info = write_shard(path, self._records(outcomes))
            packed = Packed(outcomes, info.bytes, info.sha256)
            self._folder.write(done, json.dumps(dataclasses.asdict(packed)).encode())
            self._remove_items(keys)
        return packed

    def _records(self, outcomes: dict[str, ItemResult]) -> Iterator[bytes]:
        keys = list(outcomes)
        for start in range(0, len(keys), _READ_AT_ONCE):
            some = keys[start : start + _READ_AT_ONCE]
            records = self._folder.read_all(f"{_ITEMS}/{key}{_RECORD}" for key in some)
            for key, data in zip(some, records, strict=True):
                self._check(key, outcomes[key], data)
                yield data

    def _check(self, key: str, result: ItemResult, data: bytes) -> None:
        """Refuses bytes that are not what was stored, as a loss of power can leave them."""
        if hashlib.sha256(data).hexdigest() != result.sha256:
            self._remove_items([key])
            raise ShardError(
                f"A record in {self._folder}/{_ITEMS} was damaged and is removed; run again."
            )

    def _whole_shards(self) -> dict[str, Packed]:
        packed = {}
        for name in self._folder.names(_SHARDS):
            digest = name.removesuffix(_DONE)
            if digest == name:
                continue
            try:
                shard = _packed_of(json.loads(self._folder.read(f"{_SHARDS}/{name}")))
            except (ValueError, TypeError, KeyError, AttributeError):
                continue  # cut off by a loss of power
            if self._folder.size(f"{_SHARDS}/{digest}{_SHARD}") == shard.size:
                packed[digest] = shard
        return packed

    def _unpack(self, digest: str, shard: Packed, alone: Container[str]) -> bool:
        """Takes the records out of a shard that is none any more; whether it was sound."""
        sound = True
        try:
            with self._folder.reading(f"{_SHARDS}/{digest}{_SHARD}") as path:
                records = dict(zip(shard.outcomes, read_shard(path), strict=True))
        except (RuntimeError, IndexError, ValueError):
            records, sound = {}, False
        for key, data in records.items():
            if key not in alone:
                self.keep(key, shard.outcomes[key], data)
        # In this order, for a shard with its .json counts as whole.
        for end in (_DONE, _SHARD):
            self._folder.remove([f"{_SHARDS}/{digest}{end}"])
        return sound

    def _remove_items(self, keys: Iterable[str]) -> None:
        keys = list(keys)
        for end in (_DONE, _RECORD):  # in this order, too
            self._folder.remove(f"{_ITEMS}/{key}{end}" for key in keys)

    def _remove_others(self, where: str, useful: Iterable[str]) -> None:
        ends = (_RECORD, _SHARD, _DONE)
        keep = {f"{name}{end}" for name in useful for end in ends}
        others = [name for name in self._folder.names(where) if name not in keep]
        for done in (True, False):  # in this order, here as well
            self._folder.remove(
                f"{where}/{name}" for name in others if name.endswith(_DONE) == done
            )


def shard_name(keys: Sequence[str]) -> str:
    """Where in the output folder the shard of these records is, until it gets its own name."""
    return f"{_SHARDS}/{_digest(keys)}{_SHARD}"


def _digest(keys: Sequence[str]) -> str:
    return hashlib.sha256("\n".join(keys).encode()).hexdigest()[:32]


def _packed_of(fields: dict[str, Any]) -> Packed:
    outcomes = {key: ItemResult.from_json(value) for key, value in fields["outcomes"].items()}
    return Packed(**fields | {"outcomes": outcomes})


def _certain_shards(
    items: Sequence[tuple[str, str]], known: dict[str, ItemResult]
) -> list[list[str]]:
    """The shards that there will be whatever becomes of the items that are not done."""
    plan, shards, ended = ShardPlan(), [], set()
    for split, key in items:
        if key not in known:
            ended.add(split)
        elif known[key].size and split not in ended:
            shards.append(plan.add(split, key, known[key].size))
    shards += [keys for split, keys in plan.open_shards().items() if split not in ended]
    return [keys for keys in shards if keys]
