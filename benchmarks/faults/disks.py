"""Disks: one that fills at random points, one that is slow, files that vanish while they are read.

The full disk is a tmpfs whose size is drawn between nothing and what the command needs; then it is
enlarged, and the same command must go on. The slow one is simulated by strace, which delays every
call that syncs, renames, makes or deletes a file or a folder by 50 ms.
"""

import functools
import random
import shutil
from pathlib import Path
from typing import Any

from benchmarks.faults import trouble
from benchmarks.faults.case import Case, run
from benchmarks.faults.commands import commands, reference
from benchmarks.faults.materials import Materials, prepare, train

COLUMNS = trouble.COLUMNS
FULL = 20  # points at which the disk is full
_NAMES = ("train", "prepare", "embed", "evaluate", "convert export")
_DELAY_US = 50_000
_CALLS = "fsync,fdatasync,rename,renameat,renameat2,unlink,unlinkat,mkdir"
_LARGE = 2**28  # bytes


def cases(m: Materials, scratch: Path, seed: int = 0, full: int = FULL, **_) -> list[Case]:
    """All cases."""
    found = []
    for number in range(full):
        name = _NAMES[number % len(_NAMES)]
        work = scratch / f"full-{number}"
        rng = random.Random(f"{seed}-full-{number}")
        found.append(Case(f"full-{number:02d}", functools.partial(_full, m, work, name, rng)))
    for name in ("train", "prepare"):
        found.append(Case(f"slow-{name}", functools.partial(_slow, m, scratch / name, name)))
    for name, case in {
        "train": _lost_shards,
        "prepare": _lost_videos,
        "embed": _lost_videos,
    }.items():
        rng = random.Random(f"{seed}-lost-{name}")
        work = scratch / f"lost-{name}"
        found.append(Case(f"lost-{name}", functools.partial(case, m, work, name, rng)))
    found.append(Case("lost-workdir", functools.partial(_lost_workdir, m, scratch / "gone")))
    return found


def _full(m: Materials, folder: Path, name: str, rng: random.Random) -> dict[str, Any]:
    reference(m, name)
    whole = sum(p.stat().st_size for p in (m.folder / "references" / name).rglob("*"))
    size = max(4096, int(rng.uniform(0, 1) * whole))
    what = f"a disk of {size // 1024:,} KiB, where {whole // 1024:,} are needed"
    try:
        with trouble.mounted(folder / "disk", size) as resize:
            work = folder / "disk" / "out"
            (argv,) = commands(m)[name].start(work)
            outcome = m.call(folder.name, argv)

            def again() -> str:
                resize(_LARGE)
                return trouble.run_again(m, name, work)

            options = {"codes": (0, 1), "says": "space", "again": again}
            return trouble.row(m, what, name, outcome, work, **options)
    except PermissionError as error:
        return trouble.left_out("a full disk", name, str(error))


def _slow(m: Materials, work: Path, name: str) -> dict[str, Any]:
    what = f"a disk that takes {_DELAY_US // 1000} ms to sync, rename, make or delete a file"
    if not shutil.which("strace"):
        return trouble.left_out(what, name, "it needs strace")
    shutil.rmtree(work, ignore_errors=True)
    work.parent.mkdir(parents=True, exist_ok=True)
    (argv,) = commands(m)[name].start(work)
    delayed = ["-f", "-qq", "-e", f"trace={_CALLS}", "-o", "/dev/null"]
    inject = ["-e", f"inject={_CALLS}:delay_exit={_DELAY_US}"]
    log = m.folder / "logs" / f"slow-{name}.log"
    outcome = run(argv, m.env, log, limit_s=1800, before=["strace", *delayed, *inject])
    return trouble.row(m, what, name, outcome, work, codes=(0,))


def _lost_shards(m: Materials, folder: Path, name: str, rng: random.Random) -> dict[str, Any]:
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(m.shards, folder / "shards")
    moment = rng.uniform(0.2, 1) * reference(m, name)[1]
    argv = train(folder / "run", folder / "shards")
    log = m.folder / "logs" / "lost-shards.log"
    lose = functools.partial(shutil.rmtree, folder / "shards")
    outcome = trouble.disturbed(m, argv, moment, lose, log)
    what = f"the shards are deleted after {moment:.1f} s"
    found = trouble.row(
        m, what, name, outcome, folder / "run", codes=(0, 1), says="shards", again=None
    )
    return found | {"again": ""} if outcome.code else found


def _lost_videos(m: Materials, folder: Path, name: str, rng: random.Random) -> dict[str, Any]:
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(m.videos, folder / "videos")
    videos = rng.sample(sorted((folder / "videos").glob("*.mp4")), 8)
    moment = rng.uniform(0.1, 0.9) * reference(m, name)[1]
    argv = prepare(folder / "videos" / "captions.jsonl", folder / "out")
    if name == "embed":
        argv = ["mova_jax.embed", "--model", m.run, "--videos", folder / "videos"]
        argv += ["--index", folder / "out"]

    def lose() -> None:
        for video in videos:
            video.unlink(missing_ok=True)

    outcome = trouble.disturbed(m, argv, moment, lose, m.folder / "logs" / f"lost-{name}.log")
    fault = outcome.fault((0, 3), "" if outcome.code == 0 else "no such file")
    cells = {"trouble": f"8 of 24 videos are deleted after {moment:.1f} s", "command": name}
    said = outcome.said if outcome.code else ""
    return cells | {"said": said[:200], "code": outcome.code, "again": "", "fault": fault}


def _lost_workdir(m: Materials, folder: Path) -> dict[str, Any]:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    work = folder / "run"
    moment = 0.5 * reference(m, "train")[1]
    log = m.folder / "logs" / "lost-workdir.log"
    lose = functools.partial(shutil.rmtree, work, ignore_errors=True)
    outcome = trouble.disturbed(m, train(work, m.shards), moment, lose, log)
    fault = outcome.fault((0, 1))
    if not fault:
        shutil.rmtree(work, ignore_errors=True)
    cells = {"trouble": f"the workdir is deleted after {moment:.1f} s", "command": "train"}
    said = outcome.said if outcome.code else ""
    again = "" if fault else trouble.run_again(m, "train", work)
    fault = fault or ("" if again == trouble.EQUAL else again)
    return cells | {"said": said[:200], "code": outcome.code, "again": again, "fault": fault}
