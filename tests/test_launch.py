"""The launch scripts: what they would do, what they refuse, and that supervise.sh starts again."""

import json
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from mova_jax.cost.chips import GPU_MEMORY_SHARE

ROOT = Path(__file__).resolve().parent.parent
TPU = ("--name", "mova", "--zone", "us-west4-a")
GKE = (
    *("--name", "mova", "--image", "region/project/image:1", "--claim", "mova-data"),
    *("--accelerator", "tpu-v5-lite-podslice", "--topology", "4x4"),
)


def launch(script: str, *arguments: str, **environment: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        ["bash", f"launch/{script}", *arguments],
        cwd=ROOT,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def on_path(folder: Path, **tools: str) -> str:
    """A PATH on which these shell scripts stand before the machine's own tools."""
    folder.mkdir(exist_ok=True)
    for name, script in tools.items():
        (folder / name).write_text(f"#!/bin/sh\n{script}\n")
        (folder / name).chmod(0o755)
    return f"{folder}:{os.environ['PATH']}"


def wait_for(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def commands(done: subprocess.CompletedProcess) -> list[list[str]]:
    """What a dry run printed, as the words that a shell would make of it."""
    assert done.returncode == 0, done.stderr
    return [line for line in map(shlex.split, done.stdout.replace("\\\n", "").splitlines()) if line]


# -------------------------------------------------------------------------------------- Cloud TPU


def test_tpu_create_asks_for_a_spot_queued_resource_with_the_runtime_of_its_type():
    request, wait = commands(
        launch("tpu.sh", "create", *TPU, "--type", "v6e-16", "--spot", "--dry_run")
    )
    assert request[:6] == ["gcloud", "compute", "tpus", "queued-resources", "create", "mova"]
    assert {"--spot", "v6e-16", "v2-alpha-tpuv6e"} <= set(request)
    assert wait[4] == "describe"


def test_tpu_run_passes_every_flag_whole_to_all_hosts_of_all_slices():
    flags = ["--config=configs/base.py:data=a b", "--config.optim.groups=(('.*', 1.0),)", "$HOME"]
    done = launch("tpu.sh", "run", *TPU, "--slices", "2", "--dry_run", "--", *flags)
    starts = [line for line in commands(done) if "mova_jax.main" in line[-1]]
    assert [command[5] for command in starts] == ["mova-0", "mova-1"]
    for command in starts:
        assert "--worker=all" in command
        words = shlex.split(command[command.index("--command") + 1])
        start = words.index("mova_jax.main") + 1
        assert words[start : start + len(flags)] == flags


# A cloud of one host: its shell is a folder's, a queued resource is there at once, and calls that
# match $FAILS fail.
GCLOUD = """
echo "$*" >> "$FAKE/calls"
case "$*" in $FAILS) exit 1 ;; esac
case "$*" in
  *" describe "*) echo "$STATE" ;;
  *" scp "*) cp "$5" "$FAKE/home/mova_jax.tar.gz" ;;
  *" ssh "*) for command; do :; done; cd "$FAKE/home" && bash -c "$command" ;;
esac
"""
GIT = 'tar -czf "$4" -C "$FAKE/commit" .'
STARTED = 'echo "$JAX_COMPILATION_CACHE_DIR $*" > ../started'


@pytest.fixture
def cloud(tmp_path):
    """Runs tpu.sh against the cloud of one host: what it ended with, and the calls of gcloud."""
    (tmp_path / "home").mkdir()
    scripts = tmp_path / "commit" / "launch"
    scripts.mkdir(parents=True)
    (scripts / "setup.sh").write_text("ls -A | sort > ../made")
    (scripts / "supervise.sh").write_text(STARTED)
    tools = on_path(
        tmp_path / "bin", gcloud=GCLOUD, git=GIT, pkill="exit 1", sudo='echo "$*" >> "$FAKE/sudo"'
    )
    calls = tmp_path / "calls"

    def run(*arguments, fails="-", state="ACTIVE"):
        calls.write_text("")
        done = launch(
            "tpu.sh", *arguments, PATH=tools, FAKE=str(tmp_path), FAILS=fails, STATE=state
        )
        return done, calls.read_text()

    return run


RESUME = ("resume", *TPU, "--type", "v5p-8", "--nfs", "10.0.0.2:/mova", "--", "--config=x")


def test_tpu_resume_deletes_creates_sets_up_mounts_and_runs(cloud, tmp_path):
    done, calls = cloud(*RESUME)
    assert done.returncode == 0, done.stderr
    order = ["delete", "queued-resources create", "describe", "scp", "setup.sh", "mount -t", "main"]
    places = [calls.index(part) for part in order]
    assert places == sorted(places)
    assert "mount -t nfs 10.0.0.2:/mova /mnt/data" in (tmp_path / "sudo").read_text()


@pytest.mark.parametrize(
    ("fails", "never"),
    [
        ("*resources?create*", "describe"),
        ("*describe*", "scp"),
        ("*scp*", "setup.sh"),
        ("*setup.sh*", "mount -t"),
    ],
)
def test_tpu_resume_ends_at_the_first_failure(cloud, fails, never):
    done, calls = cloud(*RESUME, fails=fails)
    assert done.returncode
    assert never not in calls
    assert "mova_jax.main" not in calls


@pytest.mark.parametrize("state", ["", "FAILED", "SUSPENDED"])
def test_tpu_create_does_not_wait_for_a_slice_that_will_not_come(cloud, state):
    done, _ = cloud("create", *TPU, "--type", "v5p-8", state=state)
    assert done.returncode == 2
    assert state in done.stderr


def test_tpu_setup_leaves_no_deleted_file_and_keeps_what_the_host_made(cloud, tmp_path):
    folder = tmp_path / "home" / "mova_jax"
    for name in (".venv", ".data", "mova_jax"):
        (folder / name).mkdir(parents=True)
    (folder / "mova_jax" / "old.py").touch()
    done, _ = cloud("setup", *TPU)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "home" / "made").read_text().split() == [".data", ".venv", "launch"]
    assert "install -y python3.11 python3.11-venv" in (tmp_path / "sudo").read_text()


def test_tpu_run_starts_one_training_and_refuses_a_second(cloud, tmp_path):
    cloud("setup", *TPU)
    run = ("run", *TPU, "--cache", "/mnt/data/programs", "--", "--config=x y")
    assert cloud(*run)[0].returncode == 0
    started = tmp_path / "home" / "started"
    wait_for(lambda: started.exists() and started.read_text())
    assert started.read_text().startswith("/mnt/data/programs .venv/bin/python")
    assert started.read_text().endswith("--config=x y\n")
    started.unlink()
    with subprocess.Popen(
        ["flock", "mova_jax.lock", "sh", "-c", "echo held; cat"],
        cwd=tmp_path / "home",
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as other:
        assert other.stdout.readline() == b"held\n"
        for action in (run, ("setup", *TPU)):
            done, _ = cloud(*action)
            assert done.returncode == 1
            assert "a training is still running here" in done.stderr
        other.stdin.close()
    assert not started.exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("create", "--name", "mova"), "--zone is missing"),
        (("create", "--name", "Mova;ls", "--zone", "z"), "--name must be lower case"),
        (("create", *TPU), "--type is missing"),
        (("create", *TPU, "--type", "v9-8", "--dry_run"), "give it with --version"),
        (("run", *TPU), "after --"),
        (("run", *TPU, "--cache", "programs", "--", "--config=x"), "a folder of the shared disk"),
        (("mount", *TPU), "--nfs is missing"),
        (("mount", *TPU, "--nfs", "10.0.0.2:/a;ls"), "ADDRESS:/SHARE"),
        (("fly", *TPU), "unknown action 'fly'"),
        (("create", "--nmae", "mova"), "unknown option --nmae"),
    ],
)
def test_tpu_says_what_is_wrong(arguments, message):
    done = launch("tpu.sh", *arguments)
    assert done.returncode == 2
    assert message in done.stderr


def test_tpu_stop_goes_through_all_slices_also_where_nothing_runs(cloud):
    done, calls = cloud("stop", *TPU, "--slices", "2")
    assert done.returncode == 0
    assert done.stdout.count("no training runs here") == calls.count("pkill -TERM") == 2


# -------------------------------------------------------------------------------------------- GKE


def test_gke_renders_a_job_that_kubernetes_accepts():
    kubernetes_validate = pytest.importorskip("kubernetes_validate")
    flags = ["--config=configs/activitynet.py:data=/mnt/data/shards", "--a='b c'"]
    done = launch("gke.sh", "render", *GKE, "--slices", "2", "--", *flags)
    assert done.returncode == 0, done.stderr
    jobset = yaml.safe_load(done.stdout)
    assert (jobset["apiVersion"], jobset["kind"]) == ("jobset.x-k8s.io/v1alpha2", "JobSet")
    assert jobset["metadata"]["labels"]["xpk.google.com/workload"] == "mova"
    (replicated,) = jobset["spec"]["replicatedJobs"]
    assert (replicated["name"], replicated["replicas"]) == ("slice-job", 2)
    job = {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "mova"}}
    kubernetes_validate.validate(job | replicated["template"], "1.33", strict=True)
    spec = replicated["template"]["spec"]
    assert spec["parallelism"] == spec["completions"] == 4  # 16 chips, 4 a host
    (container,) = spec["template"]["spec"]["containers"]
    assert container["args"] == flags
    assert container["resources"]["limits"] == {"google.com/tpu": 4}
    environment = {variable["name"]: variable["value"] for variable in container["env"]}
    (disk,) = container["volumeMounts"]
    assert environment["JAX_COMPILATION_CACHE_DIR"].startswith(disk["mountPath"] + "/")
    (codes,) = replicated["template"]["spec"]["podFailurePolicy"]["rules"]
    assert codes["onExitCodes"]["values"] == [1, 2]  # these end it, all others start it again
    rule = jobset["spec"]["failurePolicy"]["rules"][0]
    assert {"name", "action"} <= rule.keys()  # both are required by JobSet's schema


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("render", "--name", "mova", "--", "--config=x"), "--image: got ''"),
        (("render", *GKE, "--topology", "4x4;ls", "--", "--config=x"), "--topology: got '4x4;ls'"),
        (("render", *GKE, "--chips", "5", "--", "--config=x"), "does not divide into hosts"),
        (("render", *GKE, "--", '--config="x"'), "cannot be passed on"),
        (("render", *GKE, "--", "--config=x\n"), "cannot be passed on"),
        (("render", *GKE), "after --"),
    ],
)
def test_gke_says_what_is_wrong(arguments, message):
    done = launch("gke.sh", *arguments)
    assert done.returncode == 2
    assert message in done.stderr
    assert not done.stdout


def test_gke_dry_runs_print_the_commands():
    apply = launch("gke.sh", "apply", *GKE, "--dry_run", "--", "--config=x")
    assert commands(apply) == [["kubectl", "apply", "-f", "-"]]
    delete = launch("gke.sh", "delete", "--name", "mova", "--dry_run")
    assert commands(delete) == [["kubectl", "delete", "jobset", "mova"]]


# ------------------------------------------------------------------------------ Slurm, supervising


@pytest.mark.parametrize(
    ("code", "restarts", "again"),
    [(0, 0, 0), (1, 0, 0), (143, 9, 1), (75, 2, 1), (134, 3, 0), (75, 3, 0)],
)
def test_slurm_puts_back_into_the_queue_what_can_go_on(code, restarts, again, tmp_path):
    record = tmp_path / "record"
    tools = on_path(tmp_path / "bin", srun=f"exit {code}", scontrol=f'echo "$*" >> {record}')
    job = {"PATH": tools, "SLURM_JOB_ID": "7", "SLURM_RESTART_COUNT": str(restarts)}
    done = launch("slurm.sh", "--config=x", **job)
    assert done.returncode == code
    assert (record.read_text() if record.exists() else "") == "requeue 7\n" * again
    assert ("not started again" in done.stderr) == (restarts == 3)


def test_slurm_starts_the_run_with_its_flags():
    done = launch("slurm.sh", "--config=configs/base.py:data=a b", DRY_RUN="1")
    (command,) = commands(done)
    assert command[0] == "srun" and "launch/gpu.sh" in command
    assert command[-3:] == ["-m", "mova_jax.main", "--config=configs/base.py:data=a b"]


# ------------------------------------------------------------------------------------------- GPUs

SHOW = "import json, os; print(json.dumps(dict(os.environ)))"


@pytest.mark.parametrize(
    ("gpus", "connections", "sharp"),
    [
        ("exit 9", None, None),  # no driver
        ("echo 9.0", "1", None),
        ("printf '%s\\n' 9.0 9.0 9.0 9.0 9.0 9.0 9.0 9.0", "1", "1"),
        ("printf '%s\\n' 8.0 8.0 8.0 8.0 8.0 8.0 8.0 8.0", "1", None),
        ("printf '%s\\n' 10.0 10.0 10.0 10.0 10.0 10.0 10.0 10.0", None, "1"),
    ],
)
def test_settings_for_gpus_are_those_of_their_generation(gpus, connections, sharp, tmp_path):
    tools = {"PATH": on_path(tmp_path / "bin", **{"nvidia-smi": gpus}), "XLA_FLAGS": "--mine=1"}
    done = launch("gpu.sh", sys.executable, "-c", SHOW, **tools)
    assert done.returncode == 0, done.stderr
    made = json.loads(done.stdout)
    assert made.get("CUDA_DEVICE_MAX_CONNECTIONS") == connections
    assert made.get("NCCL_NVLS_ENABLE") == sharp
    assert made["XLA_FLAGS"].startswith("--xla_gpu_") and made["XLA_FLAGS"].endswith(" --mine=1")
    assert float(made["XLA_PYTHON_CLIENT_MEM_FRACTION"]) == GPU_MEMORY_SHARE


def test_what_is_set_already_stays_and_words_of_the_command_stay_whole():
    done = launch(
        "gpu.sh",
        sys.executable,
        "-c",
        f"{SHOW}; exit(7)",
        "a b",
        XLA_PYTHON_CLIENT_MEM_FRACTION=".5",
    )
    assert done.returncode == 7
    assert json.loads(done.stdout)["XLA_PYTHON_CLIENT_MEM_FRACTION"] == ".5"


def test_the_check_of_a_gpu_needs_one_or_a_dry_run(tmp_path):
    tools = on_path(tmp_path / "bin", **{"nvidia-smi": "exit 9"})
    done = launch("gpu_check.sh", PATH=tools)
    assert done.returncode == 1 and "--dry_run" in done.stderr


def supervised(tmp_path: Path, codes: list[int], **environment: str) -> tuple[int, int]:
    """Runs a command that ends with these codes in turn: its last code, and how often it ran."""
    count = tmp_path / "count"
    count.write_text("0")
    script = (
        "import pathlib, sys; p = pathlib.Path(sys.argv[1]); n = int(p.read_text()); "
        "p.write_text(str(n + 1)); sys.exit(eval(sys.argv[2])[n])"
    )
    command = (sys.executable, "-c", script, str(count), str(codes))
    options = {"SUPERVISE_PAUSE_S": "0", "PATH": on_path(tmp_path / "bin", curl="exit 6")}
    done = launch("supervise.sh", "--attempts", "4", *command, **options | environment)
    return done.returncode, int(count.read_text())


@pytest.mark.parametrize(
    ("codes", "expected"),
    [
        ([0], (0, 1)),
        ([1], (1, 1)),  # wrong flags do not get better by trying again
        ([143, 75, 134, 0], (0, 4)),
        ([143, 1], (1, 2)),
        ([143] * 9, (143, 4)),  # all attempts
        ([75, 134, 75, 0], (75, 3)),  # lost at once three times: no progress
        ([75, 75, 143, 0], (0, 4)),
    ],
)
def test_supervise_starts_again_what_was_stopped_from_outside(codes, expected, tmp_path):
    assert supervised(tmp_path, codes) == expected


def test_supervise_counts_only_losses_soon_after_the_start_as_no_progress(tmp_path):
    assert supervised(tmp_path, [75] * 9, SUPERVISE_SOON_S="0") == (75, 4)


# Answers as the metadata server does, and a command that makes a notice stand while it runs: of
# maintenance, until it was asked for three times, or of a preemption.
METADATA = """
for url; do :; done
case $url in
  */preempted) cat "$FAKE/preempted" ;;
  *) left=$(cat "$FAKE/left")
     if [ "$left" -gt 0 ]; then
       echo $((left - 1)) > "$FAKE/left"; echo TERMINATE_ON_HOST_MAINTENANCE
     else echo NONE; fi ;;
esac
"""
WORK = """
cat "$FAKE/left" >> "$FAKE/starts"
trap 'exit 143' TERM
if [ "$(wc -l < "$FAKE/starts")" -le "$NOTICES" ]; then
  echo "$ANSWERS" > "$FAKE/left"; echo "$TAKEN" > "$FAKE/preempted"
  while :; do sleep 0.05; done
fi
"""


def noticed(tmp_path: Path, notices: int, taken: str = "FALSE") -> tuple[int, list[str]]:
    """Interrupts a command by notices: its last exit code, and the file's content at each start."""
    (tmp_path / "left").write_text("0\n")
    (tmp_path / "preempted").write_text("FALSE")
    path = on_path(tmp_path / "bin", curl=METADATA, work=WORK)
    done = launch(
        *("supervise.sh", "--attempts", "2", "work"),
        PATH=path,
        FAKE=str(tmp_path),
        NOTICES=str(notices),
        ANSWERS="3" if taken == "FALSE" else "0",
        TAKEN=taken,
        SUPERVISE_PAUSE_S="0",
        SUPERVISE_LOOK_S="0.1",
    )
    return done.returncode, (tmp_path / "starts").read_text().split()


def test_supervise_starts_after_a_maintenance_is_over_and_does_not_count_it(tmp_path):
    assert noticed(tmp_path, notices=3) == (0, ["0"] * 4)  # with two attempts


def test_supervise_ends_when_the_machine_is_taken(tmp_path):
    assert noticed(tmp_path, notices=9, taken="TRUE") == (143, ["0"])


def test_supervise_hands_a_sigterm_on_and_ends(tmp_path):
    script = (
        "import signal, sys, time, pathlib\n"
        "def save(*_):\n"
        "    time.sleep(0.3); pathlib.Path(sys.argv[1]).write_text('saved'); sys.exit(143)\n"
        "signal.signal(signal.SIGTERM, save)\n"
        "pathlib.Path(sys.argv[1]).write_text('started')\n"
        "time.sleep(60)\n"
    )
    record = tmp_path / "record"
    process = subprocess.Popen(
        ["bash", "launch/supervise.sh", sys.executable, "-c", script, str(record)], cwd=ROOT
    )
    wait_for(record.exists)
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=30) == 143
    assert record.read_text() == "saved"


def test_supervise_starts_nothing_after_a_sigterm_between_two_starts(tmp_path):
    starts = tmp_path / "starts"
    process = subprocess.Popen(
        ["bash", "launch/supervise.sh", "sh", "-c", f"echo >> {starts}; exit 75"],
        cwd=ROOT,
        env=os.environ | {"SUPERVISE_PAUSE_S": "1", "PATH": on_path(tmp_path, curl="exit 6")},
        stderr=subprocess.PIPE,
        text=True,
    )
    assert "starting again" in process.stderr.readline()
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=30) == 143
    process.stderr.close()
    assert starts.read_text() == "\n"
