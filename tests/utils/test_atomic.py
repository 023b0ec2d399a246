import pytest

from mova_jax.utils import atomic


def test_a_file_appears_whole(tmp_path):
    path = tmp_path / "new" / "a.txt"
    with atomic.replacing(path, durable=True) as aside:
        aside.write_text("one")
        assert not path.exists()
    assert path.read_text() == "one"
    atomic.write_text(path, "zwei ☂")
    assert path.read_text(encoding="utf-8") == "zwei ☂"
    assert [p.name for p in path.parent.iterdir()] == ["a.txt"]


def test_an_error_leaves_what_was_there_and_nothing_aside(tmp_path):
    path = tmp_path / "a.txt"
    atomic.write_bytes(path, b"one")
    with pytest.raises(RuntimeError), atomic.replacing(path) as aside:
        aside.write_bytes(b"half")
        raise RuntimeError
    assert path.read_bytes() == b"one"
    assert [p.name for p in tmp_path.iterdir()] == ["a.txt"]


def test_a_folder_takes_the_place_of_an_empty_one_only(tmp_path):
    path = tmp_path / "folder"
    path.mkdir()
    for text in ("one", "two"):
        if text == "one":
            with atomic.replacing(path) as aside:
                aside.mkdir()
                (aside / "file").write_text(text)
        else:
            with pytest.raises(OSError), atomic.replacing(path) as aside:
                aside.mkdir()
                (aside / "file").write_text(text)
    assert (path / "file").read_text() == "one"
    assert [p.name for p in tmp_path.iterdir()] == ["folder"]
