"""The unfinished work of `prepare`, in `.partial` of its output folder until all is done.

    items/KEY.record, items/KEY.json          a record that is in no shard yet; its ItemResult
    shards/DIGEST.array_record, DIGEST.json   a complete shard; the ItemResults of its records

KEY is a hash of all that a record depends on (`tasks.py`), DIGEST a hash of the keys in a shard, in
their order. So a file with the right name has the right content, no matter which process wrote it.
The .json is written last: without it, the record or shard counts as missing. Any number of
processes on any machines may write at the same time.
"""

import dataclasses
import hashlib
import json
from collections.abc import Container, Iterable, Iterator, Sequence

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
_RETRY = ".retry"  # in place of .json: the next call tries this item again
_READ_AT_ONCE = 16  # records; bounds the memory


@dataclasses.dataclass(frozen=True)
class ItemResult:
    """The result of one item: its record, or the reason why it has none.

    Attributes:
        reason: why there is no record, or ''.
        warnings: about the record.
        texts: its caption and its alternatives.
        frames: number of frames.
        captions: number of sentences.
        size: of the record, bytes; 0 when there is none.
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
        """The result of an item that has a record."""
        digest = hashlib.sha256(data).hexdigest()
        return cls("", tuple(warnings), tuple(texts), frames, captions, len(data), digest)

    def to_json(self) -> bytes:
        """The result as it is stored."""
        return json.dumps(dataclasses.asdict(self)).encode()

    @classmethod
    def from_json(cls, data: bytes | dict) -> "ItemResult | None":
        """Reads a stored result; None when a loss of power has cut it off."""
        try:
            fields = data if isinstance(data, dict) else json.loads(data)
            lists = {name: tuple(fields[name]) for name in ("warnings", "texts")}
            return cls(**fields | lists)
        except (ValueError, TypeError, KeyError):
            return None


@dataclasses.dataclass(frozen=True)
class PackedShard:
    """A complete shard: the results of its records by key, in order; its bytes; its hash."""

    results: dict[str, ItemResult]
    size: int
    sha256: str

    def to_json(self) -> bytes:
        """The description as it is stored."""
        results = {key: dataclasses.asdict(result) for key, result in self.results.items()}
        return json.dumps({"outcomes": results, "size": self.size, "sha256": self.sha256}).encode()

    @classmethod
    def from_json(cls, data: bytes) -> "PackedShard | None":
        """Reads a stored description; None when a loss of power has cut it off."""
        try:
            fields = json.loads(data)
            results = {k: ItemResult.from_json(v) for k, v in fields["outcomes"].items()}
            return cls(results, fields["size"], fields["sha256"]) if all(results.values()) else None
        except (ValueError, TypeError, KeyError, AttributeError):
            return None


class ShardPlan:
    """Assigns records to shards by their order and their sizes alone."""

    def __init__(self):
        """Starts with no shard."""
        self.shards: dict[str, list[list[str]]] = {}
        self._bytes: dict[str, int] = {}

    def add(self, split: str, key: str, size: int) -> list[str]:
        """Adds the next record of a split; returns the keys of its shard if that is now full."""
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
    """The finished records and shards of an unfinished output folder. Can be pickled."""

    def __init__(self, folder: Folder):
        """Takes the output folder."""
        self._folder = folder

    def restore(self, items: Sequence[tuple[str, str]]) -> dict[str, ItemResult]:
        """Finds the work of earlier calls, and removes files that they left incomplete.

        Finished work that these items do not use stays: a folder of videos may not be mounted, or
        an option may be mistyped.

        Args:
            items: split and key of every item, in order.

        Returns:
            The results of the items that are done, by key.
        """
        wanted = {key for _, key in items}
        records = self.keys(_RECORD)
        unpacked = {
            key: result
            for key, result in self.results(wanted & self.keys()).items()
            if not result.size or key in records
        }
        shards = self._complete_shards()
        done = dict(unpacked)
        for shard in shards.values():
            done |= {key: result for key, result in shard.results.items() if key in wanted}
        final = set(map(_digest, _final_shards(items, done)))
        for digest, shard in list(shards.items()):
            if digest not in final and wanted & shard.results.keys():
                if not self._unpack(digest, shards.pop(digest), unpacked):
                    return self.restore(items)  # the shard was damaged and has been removed
        packed = {key for shard in shards.values() for key in shard.results}
        self._remove_others(_ITEMS, self.keys() - packed - (wanted - done.keys()))
        self._remove_others(_SHARDS, shards)
        return done

    def has_records(self) -> bool:
        """Whether there is a video that need not be decoded again."""
        names = [*self._folder.names(_ITEMS), *self._folder.names(_SHARDS)]
        return any(name.endswith((_RECORD, _SHARD)) for name in names)

    def is_empty(self) -> bool:
        """Whether there is no work from which another call could resume."""
        return not any(map(self._folder.names, (_ITEMS, _SHARDS)))

    def result(self, key: str) -> ItemResult | None:
        """The result of an item that is in no shard yet; None when the item is not done."""
        try:
            return ItemResult.from_json(self._folder.read(f"{_ITEMS}/{key}{_DONE}"))
        except FileNotFoundError:
            return None

    def keys(self, suffix: str = _DONE) -> set[str]:
        """The items that are done and in no shard yet."""
        names = self._folder.names(_ITEMS)
        return {name.removesuffix(suffix) for name in names if name.endswith(suffix)}

    def results(self, keys: Iterable[str], suffix: str = _DONE) -> dict[str, ItemResult]:
        """The results of items that are done and in no shard, without those that are damaged."""
        keys = list(keys)
        texts = self._folder.read_all(f"{_ITEMS}/{key}{suffix}" for key in keys)
        found = zip(keys, map(ItemResult.from_json, texts), strict=True)
        return {key: result for key, result in found if result}

    def retry_results(self) -> dict[str, ItemResult]:
        """The failures of this call that the next call tries again."""
        return self.results(self.keys(_RETRY), _RETRY)

    def store(self, key: str, result: ItemResult, data: bytes, retry: bool = False) -> None:
        """Stores the result of an item, and its record.

        Args:
            key: of the item.
            result: of the item.
            data: the record; b'' when there is none.
            retry: whether the next call tries again.

        Raises:
            ShardError: when it cannot be stored.
        """
        with reraise_as_shard_error(f"A record cannot be written to {self._folder}"):
            if result.size:
                self._folder.write(f"{_ITEMS}/{key}{_RECORD}", data)
            self._folder.write(f"{_ITEMS}/{key}{_RETRY if retry else _DONE}", result.to_json())

    def pack(self, keys: Sequence[str]) -> PackedShard:
        """Moves records into a shard, or returns the shard that has been made of them already.

        Raises:
            ShardError: when it cannot be stored, or a record is damaged.
        """
        done = f"{_SHARDS}/{_digest(keys)}{_DONE}"
        try:
            if shard := PackedShard.from_json(self._folder.read(done)):
                return shard
        except FileNotFoundError:
            pass
        with reraise_as_shard_error(f"A shard cannot be written to {self._folder}"):
            results = self.results(keys)
            if lost := set(keys) - results.keys():
                raise ShardError(f"{self._folder}/{_ITEMS}/{min(lost)} is damaged; run again.")
            with self._folder.writing(shard_name(keys)) as path:
                info = write_shard(path, self._records(results))
            shard = PackedShard(results, info.bytes, info.sha256)
            self._folder.write(done, shard.to_json())
            self._remove_items(keys)
        return shard

    def _records(self, results: dict[str, ItemResult]) -> Iterator[bytes]:
        keys = list(results)
        for start in range(0, len(keys), _READ_AT_ONCE):
            some = keys[start : start + _READ_AT_ONCE]
            records = self._folder.read_all(f"{_ITEMS}/{key}{_RECORD}" for key in some)
            for key, data in zip(some, records, strict=True):
                self._check(key, results[key], data)
                yield data

    def _check(self, key: str, result: ItemResult, data: bytes) -> None:
        """Refuses a record that is not what was stored, as a loss of power can leave it."""
        if hashlib.sha256(data).hexdigest() != result.sha256:
            self._remove_items([key])
            raise ShardError(
                f"A record in {self._folder}/{_ITEMS} was damaged and is removed; run again."
            )

    def _complete_shards(self) -> dict[str, PackedShard]:
        """Shards with a readable .json and the size that it names, by digest."""
        shards = {}
        for name in self._folder.names(_SHARDS):
            if name.endswith(_DONE):
                digest = name.removesuffix(_DONE)
                shard = PackedShard.from_json(self._folder.read(f"{_SHARDS}/{name}"))
                if shard and self._folder.size(f"{_SHARDS}/{digest}{_SHARD}") == shard.size:
                    shards[digest] = shard
        return shards

    def _unpack(self, digest: str, shard: PackedShard, unpacked: Container[str]) -> bool:
        """Stores the records of a shard as items and removes the shard; False if it is damaged."""
        intact = True
        try:
            with self._folder.reading(f"{_SHARDS}/{digest}{_SHARD}") as path:
                records = dict(zip(shard.results, read_shard(path), strict=True))
        except (RuntimeError, IndexError, ValueError):
            records, intact = {}, False
        for key, data in records.items():
            if key not in unpacked:
                self.store(key, shard.results[key], data)
        # The .json first, here and below: a file with its .json counts as complete.
        for suffix in (_DONE, _SHARD):
            self._folder.remove([f"{_SHARDS}/{digest}{suffix}"])
        return intact

    def _remove_items(self, keys: Iterable[str]) -> None:
        keys = list(keys)
        for suffix in (_DONE, _RECORD):
            self._folder.remove(f"{_ITEMS}/{key}{suffix}" for key in keys)

    def _remove_others(self, where: str, useful: Iterable[str]) -> None:
        keep = {f"{name}{suffix}" for name in useful for suffix in (_RECORD, _SHARD, _DONE)}
        others = [name for name in self._folder.names(where) if name not in keep]
        for is_done in (True, False):
            self._folder.remove(
                f"{where}/{name}" for name in others if name.endswith(_DONE) == is_done
            )


def shard_name(keys: Sequence[str]) -> str:
    """The name of the shard of these records in the output folder, until it is published."""
    return f"{_SHARDS}/{_digest(keys)}{_SHARD}"


def _digest(keys: Sequence[str]) -> str:
    return hashlib.sha256("\n".join(keys).encode()).hexdigest()[:32]


def _final_shards(items: Sequence[tuple[str, str]], done: dict[str, ItemResult]) -> list[list[str]]:
    """The shards that do not depend on the results of the items that are still to be done."""
    plan, shards, ended = ShardPlan(), [], set()
    for split, key in items:
        if key not in done:
            ended.add(split)
        elif done[key].size and split not in ended:
            shards.append(plan.add(split, key, done[key].size))
    shards += [keys for split, keys in plan.open_shards().items() if split not in ended]
    return [keys for keys in shards if keys]
