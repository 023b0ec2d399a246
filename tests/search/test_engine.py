"""Vectors outside of the index: the Parquet file, and candidates from Milvus Lite."""

import sys

import numpy as np
import pytest
from pyarrow import parquet

from mova_jax import embed
from mova_jax.search import engine as engine_lib
from mova_jax.search import parquet_file
from mova_jax.search.filters import Filter
from mova_jax.search.index_writer import IndexWriter
from mova_jax.search.opening import open_engine
from mova_jax.search.query import Searcher, vectors_of
from mova_jax.search.store import SourceFile, StoreError, open_index
from tests.search.made import MadeModel, MadeScan

ABOUT = {"model": "runs/a", "fingerprint": "f" * 32, "fps": 1.0, "dim": 8}
LENGTHS = (3, 40, 9, 12, 1, 7, 20, 5, 0, 4)


def add(folder, numbers):
    """Adds videos v000 and so on, each of random vectors of its number; the index."""
    writer = IndexWriter(folder / "index", ABOUT)
    for number in numbers:
        path = folder / f"{number}.mp4"
        path.write_text(str(number))
        count = LENGTHS[number]
        vectors = np.random.default_rng(number).normal(size=(count, 8)).astype(np.float16)
        times = np.arange(count, dtype=np.float32) + 0.5
        writer.add(f"v{number:03}", SourceFile.of(path), vectors, times, float(count))
    return open_index(folder / "index")


def test_a_parquet_file_has_every_frame_in_row_groups(tmp_path, monkeypatch, capsys):
    index = add(tmp_path, range(10))
    monkeypatch.setattr(parquet_file, "ROWS", 16)
    path = tmp_path / "out" / "frames.parquet"
    assert embed.main(["--index", str(tmp_path / "index"), "--export", str(path)]) == 0
    assert "101 frames in" in capsys.readouterr().out
    file = parquet.ParquetFile(path)
    sizes = [file.metadata.row_group(i).num_rows for i in range(file.num_row_groups)]
    # Long videos are cut at 16 frames; what is left shares a group while it fits.
    assert sizes == [3, 16, 16, 8, 9, 13, 7, 16, 13]
    rows = file.read().to_pylist()
    expected = [(e, f) for e in index.entries for f in range(e.frames)]
    assert [(r["video"], r["frame"]) for r in rows] == [(e.id, f) for e, f in expected]
    for row, (entry, frame) in zip(rows, expected, strict=True):
        assert row["path"] == entry.source and row["duration"] == entry.duration
        assert row["time"] == index.times(entry.id)[frame]
        np.testing.assert_array_equal(row["vector"], index.vectors(entry.id)[frame])
    about = {key.decode(): value.decode() for key, value in file.schema_arrow.metadata.items()}
    assert about["mova_jax.fingerprint"] == "f" * 32 and about["mova_jax.fps"] == "1.0"
    assert list((tmp_path / "out").iterdir()) == [path]


def test_an_export_that_fails_leaves_the_file_that_was_there(tmp_path):
    index, path = add(tmp_path, [0, 1]), tmp_path / "frames.parquet"
    path.write_text("before")
    np.save(tmp_path / "index" / "videos" / "v001" / "vectors.npy", np.zeros((2, 8), np.float16))
    with pytest.raises(StoreError, match="does not have the 40 frames of its entry"):
        parquet_file.export_parquet(index, path)
    assert path.read_text() == "before" and not list(tmp_path.glob(".*.partial"))


@pytest.fixture
def uri(tmp_path):
    reason = "needs requirements-engine.txt"
    pytest.importorskip("pymilvus", reason=reason)
    pytest.importorskip("milvus_lite", reason=reason)
    return str(tmp_path / "frames.db")


def test_answers_from_candidates_are_those_of_the_exact_scan(tmp_path, uri, monkeypatch, capsys):
    index = add(tmp_path, range(9))
    command = ["--index", str(index.folder), "--engine", uri]
    assert embed.main(command) == 0
    assert "8 videos uploaded, 0 deleted" in capsys.readouterr().out  # one has no frame
    monkeypatch.setattr(engine_lib, "CANDIDATES", 2)  # for each sentence
    engine = open_engine(uri, index)
    exact = Searcher(MadeModel(index), index, MadeScan())
    searcher = Searcher(MadeModel(index), index, MadeScan(), engine)
    try:
        for text in ("v1f30 is here.", "v6f12 is here. v3f2 follows.", "v4f0."):
            question = searcher.question(text)
            some = engine.candidates(vectors_of(question), index.entries)
            assert 2 <= len(some) <= 4
            assert {f"v{int(w[1 : w.index('f')]):03}" for w in text.split() if w[0] == "v"} <= {
                entry.id for entry in some
            }
            (expected,), (got,) = exact.search(text, top=1), searcher.search(text, top=1)
            assert got.entry == expected.entry and got.score == expected.score
            assert [m[:4] for m in got.moments] == [m[:4] for m in expected.moments]
        # A filter is asked of the engine, so that there are candidates behind it.
        where = Filter.parse(shorter="10s")
        answers = searcher.search("v1f30 is here.", top=9, where=where)
        assert len(answers) == 2 and all(answer.entry.duration <= 10 for answer in answers)
        assert answers[0].entry == exact.search("v1f30 is here.", 1, where)[0].entry
    finally:
        engine.close()
    # Videos come and go; a second upload changes only those.
    IndexWriter(index.folder, ABOUT).remove("v001")
    index = add(tmp_path, [9])
    open_engine(uri, index).close()
    assert "1 of 9 videos are not in the engine" in capsys.readouterr().err
    assert embed.main(command) == 0
    assert "1 videos uploaded, 1 deleted" in capsys.readouterr().out
    engine = open_engine(uri, index)
    ids = {e.id for e in engine.candidates(np.ones((1, 8)), index.entries)}
    engine.close()
    assert len(ids) == 2 and "v001" not in ids


def test_an_upload_that_was_stopped_goes_on(tmp_path, uri, monkeypatch, capsys):
    index = add(tmp_path, [1, 2])
    monkeypatch.setattr(engine_lib, "BATCH", 7)
    engine = engine_lib.Engine(uri, index)
    insert, done = engine._client.upsert, []

    def stop(name, rows):
        if len(done) == 6:  # v001 is whole, of v002 some frames are there
            raise KeyboardInterrupt
        done.append(insert(name, rows))

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(engine._client, "upsert", stop)
        engine.upload(index)
    assert engine.missing(index) == 1
    assert engine.upload(index) == (1, 0) and engine.missing(index) == 0
    counted = engine._client.query(engine._name(), filter="", output_fields=["count(*)"])
    assert counted[0]["count(*)"] == 49
    engine.close()


def test_what_there_is_not_is_said(tmp_path, uri, monkeypatch):
    index = add(tmp_path, [0])
    with pytest.raises(StoreError, match=r"frames.db has no vectors of .*--engine"):
        open_engine(uri, index)
    with pytest.raises(StoreError, match=r"the engine at .*no/x.db"):
        open_engine(str(tmp_path / "no" / "x.db"), index)
    monkeypatch.setitem(sys.modules, "pymilvus", None)
    with pytest.raises(StoreError, match=r"pip install -r requirements-engine.txt"):
        open_engine(uri, index)
