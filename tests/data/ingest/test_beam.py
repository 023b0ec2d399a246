"""Tests of `prepare` under Apache Beam, on its local runner."""

import pytest

from mova_jax import prepare
from mova_jax.data.ingest import partial_output
from mova_jax.data.ingest.ingest import IngestSettings, ingest
from mova_jax.data.shards import ShardError, read_manifest

pytest.importorskip(
    "apache_beam", reason="Apache Beam is not installed: pip install -r requirements-beam.txt"
)
from tests.clips import assert_same_files, line, ramp, write_lines, write_video

SETTINGS = IngestSettings(fps=2.0, short_side=16, vocab_size=530, splits=(("train", 1.0),))
LOCAL = ["--runner=DirectRunner"]


@pytest.fixture(scope="module")
def annotations(tmp_path_factory):
    """Five videos, one that is none, one that is not there."""
    folder = tmp_path_factory.mktemp("clips")
    for i in range(5):
        write_video(folder / f"{i}.mp4", ramp(20 + 10 * i))
    (folder / "text.mp4").write_text("no video")
    names = ["0", "1", "text", "2", "missing", "3", "4"]
    lines = [line(f"{name}.mp4", f"Cat {name} ☂ sits.") for name in names]
    return write_lines(folder / "all.jsonl", *lines)


@pytest.fixture
def made(annotations, tmp_path, monkeypatch):
    """What one process makes, in shards of two records."""
    monkeypatch.setattr(partial_output, "SHARD_RECORDS", 2)
    ingest(annotations, tmp_path / "local", SETTINGS, progress=False)
    return tmp_path / "local"


@pytest.mark.parametrize("scheme", ["", "file://"])
def test_the_bytes_are_those_of_one_machine(made, annotations, tmp_path, scheme):
    folder = f"{scheme}{tmp_path}/beam"
    manifest = ingest(f"{scheme}{annotations}", folder, SETTINGS, beam=LOCAL)
    assert [shard.records for shard in manifest.splits["train"].shards] == [2, 2, 1]
    assert_same_files(made, tmp_path / "beam")


def test_a_pipeline_goes_on_from_what_another_call_did(made, annotations, tmp_path, monkeypatch):
    """In both directions, and with the shards of a call that was stopped while it packed."""
    from mova_jax.data.ingest import tasks

    def fail(*args):
        raise OSError("the store is away")

    folder = tmp_path / "beam"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(partial_output, "write_shard", fail)
        with pytest.raises(ShardError, match="the store is away"):
            ingest(annotations, folder, SETTINGS, progress=False)
    assert len(list(folder.glob(".partial/items/*.record"))) == 2
    decode, names = tasks.decode_or_raise, []

    def counted(item, *args):
        names.append(item.id)
        return decode(item, *args)

    monkeypatch.setattr(tasks, "decode_or_raise", counted)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("mova_jax.data.ingest.ingest.write_manifest", fail)
        with pytest.raises(OSError, match="the store is away"):
            ingest(annotations, folder, SETTINGS, beam=LOCAL)
    assert sorted(names) == ["2.mp4", "3.mp4", "4.mp4", "missing.mp4", "text.mp4"]
    ingest(annotations, folder, SETTINGS, progress=False)
    assert len(names) == 5
    assert_same_files(made, folder)


def test_a_temporary_failure_is_reported_and_tried_again(annotations, tmp_path, monkeypatch):
    from mova_jax.data.ingest import tasks

    def fail(*args):
        raise PermissionError("not now")

    folder = tmp_path / "beam"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tasks, "decode_or_raise", fail)
        with pytest.raises(Exception, match=r"7 skipped: 0\.mp4: PermissionError: not now"):
            ingest(annotations, folder, SETTINGS, beam=LOCAL)
    ingest(annotations, folder, SETTINGS, beam=LOCAL)
    assert read_manifest(folder).splits["train"].videos == 5


def test_workers_that_write_elsewhere_are_an_error(annotations, tmp_path, monkeypatch):
    """On another machine the same path is another folder."""
    monkeypatch.setattr("mova_jax.data.ingest.beam._run", lambda *args: None)
    with pytest.raises(ShardError, match=r"'0\.mp4' in .*every worker has to see the output"):
        ingest(annotations, tmp_path / "beam", SETTINGS, beam=LOCAL)


def test_a_pipeline_that_fails_is_one_line(annotations, tmp_path, capsys, monkeypatch):
    from mova_jax.data.storage import Folder

    def fail(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Folder, "write", fail)
    arguments = ["--input", annotations, "--output", tmp_path / "s", "--runner", "DirectRunner"]
    assert prepare.main(list(map(str, arguments))) == 1
    assert "No space left on device" in capsys.readouterr().err


def test_options_reach_the_pipeline(made, annotations, tmp_path):
    arguments = ["--input", annotations, "--output", tmp_path / "s", "--runner=DirectRunner"]
    more = ["--beam=--direct_num_workers=2", "--beam=--direct_running_mode=multi_threading"]
    assert prepare.main(list(map(str, [*arguments, *more, "--fps=2", "--short_side=16"]))) == 3
    record = read_manifest(tmp_path / "s")
    assert [entry["id"] for entry in record.skipped] == ["text.mp4", "missing.mp4"]
