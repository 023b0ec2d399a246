"""Tests of the copy of shards that are at a URL."""

import concurrent.futures
import json

import pytest

from mova_jax.data.shards import MANIFEST, ShardError, open_split
from mova_jax.data.shards.cache import local_folder
from tests.clips import video_record, write_shards


@pytest.fixture
def made(tmp_path):
    """A folder of shards and its URL."""
    folder = tmp_path / "there"
    records = [video_record(str(i), frames=(b"x" * 99,)) for i in range(5)]
    write_shards(folder, {"train": records}, {"shard_records": 2})
    (folder / "tokenizer").mkdir()
    (folder / "tokenizer" / "tokenizer.json").write_text("{}")
    (folder / "other.bin").write_text("not ours")
    return folder, f"file://{folder}"


def test_a_path_is_itself(made, tmp_path):
    assert local_folder(made[0], tmp_path / "cache") == made[0]
    assert not (tmp_path / "cache").exists()


def test_a_url_is_copied_once(made, tmp_path, monkeypatch, capsys):
    folder = local_folder(made[1], tmp_path / "cache")
    assert [record.id for record in open_split(folder, "train")] == list("01234")
    names = {path.name for path in made[0].rglob("*")} - {"other.bin"}
    assert {path.name for path in folder.rglob("*")} == names
    assert f"copying {made[0]}" in capsys.readouterr().err
    monkeypatch.setattr("mova_jax.data.shards.cache._copy", None)
    assert local_folder(made[1] + "/", tmp_path / "cache") == folder


def test_what_a_killed_copy_has_is_not_copied_again(made, tmp_path):
    folder = local_folder(made[1], tmp_path / "cache")
    (folder / MANIFEST).unlink()
    first, second, _ = sorted(folder.glob("*array_record*"))
    second.unlink()
    (made[0] / first.name).unlink()  # so it cannot be fetched
    assert local_folder(made[1], tmp_path / "cache") == folder
    assert len(open_split(folder, "train")) == 5


def test_other_shards_at_the_url_are_another_copy(made, tmp_path):
    folder = local_folder(made[1], tmp_path / "cache")
    path = made[0] / MANIFEST
    path.write_text(json.dumps(json.loads(path.read_text()) | {"licence": "CC0"}))
    assert local_folder(made[1], tmp_path / "cache") != folder


def test_processes_that_start_at_once_copy_once(made, tmp_path, capfd):
    with concurrent.futures.ProcessPoolExecutor(3) as pool:
        folders = list(pool.map(local_folder, [made[1]] * 3, [tmp_path / "cache"] * 3))
    assert len(set(folders)) == 1
    assert capfd.readouterr().err.count(":   0% ") == 1  # each bar starts with it


def test_a_shard_that_is_not_the_manifests(made, tmp_path):
    shard = min(made[0].glob("*array_record*"))
    data = bytearray(shard.read_bytes())
    data[50] ^= 1
    shard.write_bytes(data)
    with pytest.raises(ShardError, match=r"00000-of-00003 is not the one of its manifest"):
        local_folder(made[1], tmp_path / "cache")
    assert not list((tmp_path / "cache").rglob("*array_record*"))
    shard.unlink()
    with pytest.raises(ShardError, match="is in the manifest, not there"):
        local_folder(made[1], tmp_path / "cache")


def test_a_manifest_that_names_a_file_elsewhere(made, tmp_path):
    path = made[0] / MANIFEST
    fields = json.loads(path.read_text())
    fields["splits"]["train"]["shards"][0]["file"] = "../secret"
    path.write_text(json.dumps(fields))
    with pytest.raises(ShardError, match=f"^{path} .*not a name in the folder"):
        local_folder(made[1], tmp_path / "cache")
    path.write_text("{")
    with pytest.raises(ShardError, match=f"^{path} is not a manifest"):
        local_folder(made[1], tmp_path / "cache")
    assert not list((tmp_path / "cache").glob("*/*"))


def test_nothing_at_the_url(tmp_path):
    with pytest.raises(ShardError, match=r"There is no manifest.json at file://"):
        local_folder(f"file://{tmp_path}", tmp_path / "cache")
    with pytest.raises(ShardError, match="Protocol not known"):
        local_folder("nonsense://a", tmp_path / "cache")
