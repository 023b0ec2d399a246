"""The command: an index of made videos, asked in every way."""

import io
import json

import numpy as np
import pytest

from mova_jax.data.images import encode_jpeg
from mova_jax.evaluation.frame_stream import FrameVectors
from mova_jax.search import opening
from mova_jax.search.__main__ import main
from mova_jax.search.index_writer import IndexWriter
from mova_jax.search.opening import Watch
from mova_jax.search.query import parts_as_rows
from mova_jax.search.store import SourceFile
from tests.search.library_model import make_model

TEXT = "a red circle moves left. then it stops."


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A model, and an index of three videos of 4, 40 and 9 seconds."""
    folder = tmp_path_factory.mktemp("asked")
    model, rng = make_model(folder), np.random.default_rng(0)
    about = {"model": "m", "fingerprint": model.fingerprint, "fps": 1.0, "dim": 8}
    writer = IndexWriter(folder / "index", about)
    for name, frames in (("a", 4), ("b", 40), ("c", 9)):
        path = folder / f"{name}.mp4"
        path.write_bytes(name.encode())
        vectors = rng.normal(size=(frames, 8)).astype(np.float16)
        times = np.arange(frames, dtype=np.float32)
        writer.add(name, SourceFile.of(path), vectors, times, float(frames))
    return model, folder


@pytest.fixture
def ask(made, monkeypatch, capsys):
    model, folder = made
    monkeypatch.setattr(opening, "load", lambda path: model)
    monkeypatch.setattr(opening, "enable_compilation_cache", lambda config: None)

    def run(*flags):
        code = main(["--index", str(folder / "index"), *map(str, flags)])
        return code, capsys.readouterr()

    return run


def test_answers_are_those_of_the_library_from_text_file_and_stdin(made, ask, monkeypatch):
    model, folder = made
    code, shown = ask(TEXT, "--json")
    found = json.loads(shown.out)
    assert code == 0 and [one["rank"] for one in found] == [1, 2, 3]
    index = opening.open_index(folder / "index")
    for one in found:
        vectors, times = index.vectors(one["id"]), index.times(one["id"])
        (score,) = model.score(FrameVectors(vectors, times, 0.0), TEXT)[0]
        assert one["score"] == pytest.approx(float(score), abs=1e-5)
    (folder / "question.txt").write_text(TEXT)
    assert json.loads(ask("--file", folder / "question.txt", "--json")[1].out) == found
    monkeypatch.setattr("sys.stdin", io.StringIO(TEXT))
    assert json.loads(ask("-", "--json")[1].out) == found
    code, shown = ask(TEXT, "--longer", "10s", "--top", 5)
    assert code == 0 and shown.out.splitlines()[0].split()[2:] == [str(folder / "b.mp4"), "00:40"]
    assert "a red circle moves left." in shown.out.splitlines()[1]


def test_sentences_are_embedded_as_if_each_was_alone(made):
    model, _ = made
    rows = parts_as_rows(model.embed_text(TEXT), 2)
    alone = model.embed_text(["a red circle moves left.", "then it stops."])
    np.testing.assert_allclose(rows.parts.pooled, alone.parts.pooled[:, :1], atol=1e-5)
    assert parts_as_rows(model.embed_text(TEXT * 20), 40) is None


def test_a_picture_is_a_question(made, ask):
    path = made[1] / "picture.jpg"
    path.write_bytes(encode_jpeg(np.full((16, 16, 3), 90, np.uint8)))
    code, shown = ask("--like", path, "--json", "--top", 2)
    assert code == 0 and len(json.loads(shown.out)) == 2


def test_what_cannot_be_asked(made, ask, monkeypatch, tmp_path):
    code, shown = ask(TEXT, "--longer", "1h")
    assert code == 0 and "none of the 3 videos" in shown.err and not shown.out
    for flags, message in [
        ((TEXT, "--after", "soon"), "after: got 'soon'"),
        (("--like", made[1] / "a.mp4"), "a.mp4"),
        (("--file", made[1] / "no.txt"), "no.txt"),
        ((" . ", "--index", made[1]), "is no index"),
    ]:
        code, shown = ask(*flags)
        assert code == 1 and message in shown.err and shown.err.count("\n") == 1
    other = make_model(tmp_path, seed=1)
    monkeypatch.setattr(opening, "load", lambda path: other)
    assert "is another model" in ask(TEXT)[1].err
    for flags in ((), (TEXT, "--serve"), (TEXT, "--top", 0)):
        with pytest.raises(SystemExit) as stopped:
            ask(*flags)
        assert stopped.value.code == 2


def test_a_watch_sees_videos_come(made):
    folder = made[1] / "index"
    watch = Watch(folder)
    assert watch() is None
    (folder / "videos" / "new").mkdir()
    assert len(watch().entries) == 3 and watch() is None
