"""Faults of files as the user meets them: message, exit code, and nothing lost."""

import json
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from mova_jax import prepare
from mova_jax.data.shards import open_split, read_manifest
from tests.clips import line, write_lines, write_sound, write_video

ROOT = Path(__file__).resolve().parents[3]
INVALID = "not a video that can be decoded (Invalid data found when processing input)"


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    """Good videos of noise, which cannot be compressed, and bad ones of every kind."""
    folder = tmp_path_factory.mktemp("clips")
    rng = np.random.default_rng(0)
    noise = [rng.integers(0, 256, (64, 96, 3), np.uint8) for _ in range(40)]
    for i in range(4):
        write_video(folder / f"good{i}.mp4", noise[: 30 + i])
    whole = write_video(folder / "whole.mp4", noise).read_bytes()
    (folder / "cut_short.mp4").write_bytes(whole[: len(whole) // 2])
    (folder / "cut_index.mp4").write_bytes(whole[:-200])
    (folder / "folder.mp4").mkdir()
    whole = write_video(folder / "whole.mp4", noise, movflags="faststart").read_bytes()
    (folder / "half.mp4").write_bytes(whole[: len(whole) // 2])
    (folder / "whole.mp4").unlink()
    (folder / "zero.mp4").write_bytes(b"")
    (folder / "zeros.mp4").write_bytes(bytes(5000))
    (folder / "text.mp4").write_text("This is no video.\n" * 100)
    write_sound(folder / "sound.mp4")
    odd = [image[:33, :47] for image in noise[:20]]
    write_video(folder / "ten_bit.mp4", noise[:20], codec="libx264", pix_fmt="yuv420p10le")
    write_video(folder / "odd.mp4", odd, codec="libx264", pix_fmt="yuv444p")
    write_video(folder / "one.mp4", noise[:1])
    (folder / "link.mp4").symlink_to(folder / "good0.mp4")
    outside = tmp_path_factory.mktemp("outside")
    shutil.copy(folder / "good0.mp4", outside)
    (folder / "out.mp4").symlink_to(outside / "good0.mp4")
    (folder / "way").symlink_to(outside)
    return folder


def command(capsys, *arguments):
    """Runs `prepare` in this process: exit code, what it printed, its errors without the bar."""
    code = prepare.main([str(argument) for argument in arguments])
    out, err = capsys.readouterr()
    return code, out, "\n".join(x for x in err.splitlines() if x and "video/s" not in x)


def records(folder):
    """All records by id."""
    splits = read_manifest(folder).splits
    return {record.id: record for split in splits for record in open_split(folder, split)}


def test_a_bad_entry_is_skipped_and_the_others_go_in(clips, tmp_path, capsys):
    words = " ".join(f"word{i}" for i in range(10_000))
    names = "good0 cut_short cut_index half zero zeros text sound folder ten_bit odd one missing"
    file = write_lines(
        clips / "all.jsonl",
        *({"video": f"{name}.mp4", "caption": f"The {name} clip."} for name in names.split()),
        {"video": "good1.mp4", "id": "nulls", "caption": "A \0 null\0."},
        {"video": "good2.mp4", "id": "long", "caption": words},
        {"video": "good3.mp4", "id": "nulls", "caption": "The id again."},
        {"video": "../secret.mp4", "caption": "Outside."},
        {"video": "/etc/passwd", "caption": "Outside."},
        {"video": "a\0b.mp4", "caption": "No path."},
        {"video": "good3.mp4", "id": "blank", "caption": "\0 "},
        b"{broken",
        b"[]",
    )
    code, out, err = command(capsys, "--input", file, "--output", tmp_path / "s", "--workers", 0)
    assert (code, err) == (3, "")
    manifest = read_manifest(tmp_path / "s")
    assert {entry["id"]: entry["reason"] for entry in manifest.skipped} == {
        "cut_short.mp4": "not a video that can be decoded (its end is missing)",
        "cut_index.mp4": "not a video that can be decoded (its end is missing)",
        "folder.mp4": "no such file",
        "zero.mp4": "the file is empty",
        "zeros.mp4": INVALID,
        "text.mp4": INVALID,
        "sound.mp4": "no video stream",
        "missing.mp4": "no such file",
        "nulls": "line 16: the id was already used in line 14",
        "../secret.mp4": "line 17: the path '../secret.mp4' leaves the folder of the JSONL",
        "/etc/passwd": "line 18: the path '/etc/passwd' leaves the folder of the JSONL",
        "line 19": "the path 'a\\x00b.mp4' has a null byte or is not valid Unicode",
        "blank": "line 20: the caption is empty",
        "line 21": "not JSON (Expecting property name enclosed in double quotes at column 2)",
        "line 22": "not a JSON object but list",
    }
    assert "skipped: 15" in out and "captions truncated to 248 tokens: 1" in out
    ((name, reason),) = ((entry["id"], entry["reason"]) for entry in manifest.warnings)
    assert name == "half.mp4" and reason.endswith("of the 4.0 s it claims were decoded")
    made = records(tmp_path / "s")
    frames = {name: (len(record.frames), record.height) for name, record in made.items()}
    half = frames.pop("half.mp4")
    expected = {"good0.mp4": (3, 64), "ten_bit.mp4": (2, 64), "odd.mp4": (2, 33)}
    assert frames == expected | {"one.mp4": (1, 64), "nulls": (4, 64), "long": (4, 64)}
    assert 1 <= half[0] <= 3
    assert (made["nulls"].caption, made["long"].caption) == ("A null .", words)
    assert command(capsys, "inspect", tmp_path / "s", "--verify")[0] == 0


@pytest.mark.parametrize("scheme", ["", "file://"])
def test_links_are_followed_unless_they_lead_out(clips, tmp_path, capsys, scheme):
    names = ["link.mp4", "out.mp4", "way/good0.mp4"]
    file = write_lines(clips / "links.jsonl", *({"video": name, "caption": "A."} for name in names))
    arguments = ["--input", f"{scheme}{file}", "--output", tmp_path / "s", "--workers", 0]
    assert command(capsys, *arguments)[0] == 3
    assert list(records(tmp_path / "s")) == ["link.mp4"]
    for number, entry in enumerate(read_manifest(tmp_path / "s").skipped, 2):
        reason = f"the path '{names[number - 1]}' is a link that leads out of the folder"
        assert entry["reason"] == f"line {number}: {reason} of the JSONL"


FILL = """
import json, os, sys
from pathlib import Path
from mova_jax import prepare
disk, annotations, *room = sys.argv[1:]
codes = []
for kilobytes in map(int, room):
    ballast, output = Path(disk, "ballast"), Path(disk, f"shards{kilobytes}")
    stat = os.statvfs(disk)
    ballast.write_bytes(bytes(stat.f_bavail * stat.f_frsize - 1024 * kilobytes))
    command = ["--input", annotations, "--output", str(output), "--workers", "0"]
    codes.append(prepare.main(command))
    codes.append((output / "manifest.json").exists())
    ballast.unlink()
    codes.append(prepare.main(command))
    codes.append(prepare.main(["inspect", str(output), "--verify"]))
print(json.dumps(codes))
"""


def test_a_disk_that_fills_up_is_one_line_and_the_command_works_once_there_is_room(clips, tmp_path):
    """A disk of memory, full while shards are written and while the tokenizer or manifest is."""
    disk = tmp_path / "disk"
    disk.mkdir()
    own = ["unshare", "--user", "--map-root-user", "--mount"]
    mount = f"mount -t tmpfs -o size=4m none {disk}"
    if not shutil.which("unshare") or subprocess.run([*own, *mount.split()]).returncode:
        pytest.skip("this machine has no namespaces of users, to mount a small disk in")
    file = write_lines(
        clips / "disk.jsonl",
        *({"video": f"good{i}.mp4", "caption": f"Clip {i}.", "split": "train"} for i in range(4)),
    )
    room = ["70", "132"]  # kilobytes: the shard has 128
    script = [*own, "sh", "-c", f'{mount} && exec "$@"', "sh"]
    script += [sys.executable, "-c", FILL, str(disk), str(file), *room]
    run = subprocess.run(script, cwd=ROOT, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert json.loads(run.stdout.splitlines()[-1]) == [1, False, 0, 0] * len(room)
    full = [line for line in run.stderr.splitlines() if re.search("No space|os error 28", line)]
    assert len(full) == len(room) and "Traceback" not in run.stderr
    assert all(line.startswith("prepare: ") and "make room" in line for line in full)


def test_of_two_prepares_on_one_output_the_second_stops(clips, tmp_path, capsys):
    entries = [{"video": "good0.mp4", "id": str(i), "caption": "A clip."} for i in range(200)]
    file, output = write_lines(clips / "many.jsonl", *entries), tmp_path / "s"
    arguments = ["--input", file, "--output", output, "--workers", "0"]
    start = [sys.executable, "-m", "mova_jax.prepare", *arguments]
    first = subprocess.Popen(start, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    deadline = time.monotonic() + 120
    while not any(output.glob(".*/*")) and first.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    code, out, err = command(capsys, *arguments)
    assert (code, out) == (1, "")
    assert err.startswith(f"prepare: Another process is writing to {output}; wait for it")
    _, errors = first.communicate(timeout=120)
    assert first.returncode == 0, errors
    assert len(records(output)) == 200
    code, _, err = command(capsys, *arguments)
    assert code == 1 and "has shards already and stays as it is" in err


def test_training_on_a_shard_cut_in_the_middle_stops_before_it_starts(clips, tmp_path, capsys):
    entries = [line(f"good{i}.mp4", split="train") for i in range(4)]
    file, output = write_lines(clips / "four.jsonl", *entries), tmp_path / "s"
    assert command(capsys, "--input", file, "--output", output, "--workers", 0)[0] == 0
    shard = output / read_manifest(output).splits["train"].shards[0].file
    shard.write_bytes(shard.read_bytes()[: shard.stat().st_size // 4])
    start = [sys.executable, "-m", "mova_jax.main", f"--workdir={tmp_path / 'run'}"]
    start += [f"--config=configs/base.py:data={output},batch=4"]
    one_device = {**os.environ, "XLA_FLAGS": ""}
    run = subprocess.run(start, cwd=ROOT, env=one_device, capture_output=True, text=True)
    assert run.returncode == 1 and "Traceback" not in run.stderr
    assert f"mova_jax: Shard {shard} has " in run.stderr
    assert "it is truncated; copy it again or make it again" in run.stderr
    assert not (tmp_path / "run").exists() or not list((tmp_path / "run").glob("**/last/*"))
