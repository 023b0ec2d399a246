"""Candidates for a question from a vector engine, when an index outgrows one machine.

    engine = Engine("http://milvus:19530", open_index("index"))     # or a file, "frames.db"
    engine.upload(index)
    engine.candidates(vectors_of(question), index.entries)

The engine is Milvus: a cluster by its address, or Milvus Lite in this process by the name of a
file. It has one row a frame and finds, for the whole question and each of its sentences, the videos
with the nearest frames by cosine. They are only candidates: the exact scan (`scan.py`) scores them
from the index, so an answer that is among them has its exact score.

Each index has a collection of its own, whose name is in `INDEX/collection`. A video's first frame
is uploaded last: a video that has it is there as a whole, whatever was killed.
"""

import contextlib
import itertools
import json
import logging
import os
import uuid
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from mova_jax.search.store import Entry, Index, StoreError
from mova_jax.utils import atomic
from mova_jax.utils.progress_bar import bar_of

COLLECTION = "collection"
CANDIDATES = 100  # videos for each sentence, and for the whole question
BATCH = 1000  # rows of a request: 2 MB at a width of 512, where a request may have 64
LISTED = 10_000  # videos that a request may name
# Every engine of Milvus has this index, it is built in seconds and takes no memory beside the
# vectors. Each segment of up to a gigabyte has 128 cells, of which a question reads 32.
INDEX_TYPE, CELLS, PROBED = "IVF_FLAT", 128, 32


class Uploaded(NamedTuple):
    """What an upload changed."""

    added: int  # videos
    deleted: int


class Engine:
    """The collection of one index in Milvus."""

    def __init__(self, uri: str, index: Index):
        """Connects.

        Args:
            uri: `http://HOST:PORT` of a server or a cluster, with its token, if it asks for one,
                in MILVUS_TOKEN; or a file that ends in `.db`, which Milvus Lite makes.
            index: whose collection it is.

        Raises:
            StoreError: pymilvus is not installed, or there is no engine at the address.
        """
        self.uri, self._dim = uri, index.manifest["dim"]
        self._about = f"mova_jax, model {index.manifest['fingerprint']}, {index.folder.name}"
        self._place = index.folder / COLLECTION
        with self._reraise_as_store_error():
            from pymilvus import MilvusClient

            token = os.environ.get("MILVUS_TOKEN", "")
            self._client = MilvusClient(uri=uri, token=token, **_options(uri))

    def upload(self, index: Index) -> Uploaded:
        """Brings the engine up to date with the index; goes on where it was stopped.

        Args:
            index: as it is now.
        """
        with self._reraise_as_store_error():
            name = self._name() or self._new_name()
            if not self._client.has_collection(name):
                self._create(name)
            self._client.load_collection(name)
            stored, wanted = self._stored(name), {e.id: e for e in index.entries if e.frames}
            gone, coming = sorted(stored - wanted.keys()), sorted(wanted.keys() - stored)
            for some in _batches(gone, BATCH):
                self._client.delete(name, filter=_among(some))
            bar = bar_of("upload", len(coming), coming, delay=1.0)
            rows = (row for video in bar for row in _rows(index, wanted[video]))
            for some in _batches(rows, BATCH):
                self._client.upsert(name, some)  # a kill may have left some of these rows
            if gone or coming:
                self._client.flush(name)  # Milvus indexes what is flushed
        return Uploaded(len(coming), len(gone))

    def missing(self, index: Index) -> int:
        """The number of videos that are in the index and not, or no longer, in the engine.

        Raises:
            StoreError: the index was never uploaded to this engine.
        """
        with self._reraise_as_store_error():
            name = self._name()
            if not name or not self._client.has_collection(name):
                raise StoreError(
                    f"{self.uri} has no vectors of {self._place.parent}: upload them with python "
                    f"-m mova_jax.embed --index {self._place.parent} --engine {self.uri}"
                )
            self._client.load_collection(name)
            return len({e.id for e in index.entries if e.frames} - self._stored(name))

    def candidates(
        self, vectors: Float[np.ndarray, "q d"], entries: Sequence[Entry], filtered: bool = False
    ) -> list[Entry]:
        """The entries that are worth an exact score; all of them when they are few.

        Args:
            vectors: of the question and its sentences.
            entries: that may answer.
            filtered: whether they are not all of the index. Up to `LISTED` of them are named to
                the engine; of more, those are left that are among the candidates of all videos.
        """
        if len(entries) <= CANDIDATES:
            return list(entries)
        named = filtered and len(entries) <= LISTED
        with self._reraise_as_store_error():
            found = self._client.search(
                self._name(),
                data=list(np.asarray(vectors, np.float32)),
                anns_field="vector",
                limit=CANDIDATES,
                filter=_among([entry.id for entry in entries]) if named else "",
                group_by_field="video",
                output_fields=["video"],
                search_params={"metric_type": "COSINE", "params": {"nprobe": PROBED}},
            )
        videos = {hit["entity"]["video"] for hits in found for hit in hits}
        return [entry for entry in entries if entry.id in videos]

    def close(self) -> None:
        """Ends the connection."""
        self._client.close()

    def _name(self) -> str:
        with contextlib.suppress(FileNotFoundError):
            return self._place.read_text(encoding="utf-8")
        return ""

    def _new_name(self) -> str:
        name = f"mova_{uuid.uuid4().hex}"
        atomic.write_text(self._place, name)
        return name

    def _create(self, name: str) -> None:
        from pymilvus import DataType

        schema = self._client.create_schema(auto_id=False, description=self._about)
        schema.add_field("id", DataType.VARCHAR, is_primary=True, max_length=64)
        schema.add_field("video", DataType.VARCHAR, max_length=64)
        schema.add_field("frame", DataType.INT32)
        schema.add_field("time", DataType.FLOAT)
        schema.add_field("vector", DataType.FLOAT_VECTOR, dim=self._dim)
        params = self._client.prepare_index_params()
        cells = {"nlist": CELLS}
        params.add_index("vector", index_type=INDEX_TYPE, metric_type="COSINE", params=cells)
        self._client.create_collection(name, schema=schema, index_params=params)

    def _stored(self, name: str) -> set[str]:
        """Ids of the videos that are there as a whole."""
        found: set[str] = set()
        pages = self._client.query_iterator(
            name, batch_size=BATCH, filter="frame == 0", output_fields=["video"]
        )
        while page := pages.next():
            found |= {row["video"] for row in page}
        pages.close()
        return found

    @contextlib.contextmanager
    def _reraise_as_store_error(self) -> Iterator[None]:
        """Errors of the engine as messages that say where they come from."""
        try:
            yield
        except ModuleNotFoundError as error:
            raise StoreError(
                f"there is no {error.name}: pip install -r requirements-engine.txt"
            ) from error
        except StoreError:
            raise
        except Exception as error:
            if not type(error).__module__.startswith("pymilvus"):
                raise
            raise StoreError(f"the engine at {self.uri}: {error}") from error


def _options(uri: str) -> dict[str, Any]:
    """Options of the client for Milvus Lite, which warns of what its own client does."""
    if not uri.endswith(".db"):
        return {}
    # The second one warns that there are no time stamps of a server.
    for name in ("grpc._server", "pymilvus.client.iterator.query_iterator"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    return {"grpc_options": {"grpc.keepalive_time_ms": 3_600_000}}  # a ping in 10 s is too many


def _rows(index: Index, entry: Entry) -> Iterator[dict[str, Any]]:
    """The rows of a video, its first frame last."""
    vectors = np.asarray(index.vectors(entry.id), np.float32)
    times = index.times(entry.id)
    for frame in reversed(range(entry.frames)):
        yield {
            "id": f"{entry.id}-{frame}",
            "video": entry.id,
            "frame": frame,
            "time": float(times[frame]),
            "vector": vectors[frame],
        }


def _batches(items: Iterable, size: int) -> Iterator[list]:
    items = iter(items)
    while some := list(itertools.islice(items, size)):
        yield some


def _among(videos: Sequence[str]) -> str:
    """A condition of Milvus: one of these videos."""
    return f"video in {json.dumps(videos)}"
