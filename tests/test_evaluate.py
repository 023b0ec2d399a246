"""The evaluation command, on a run, on its export, and on a plain CLIP."""

import dataclasses
import json
import shutil

import numpy as np
import pytest

from mova_jax import convert, evaluate
from mova_jax.data.sources import data_and_split
from mova_jax.parallel import processes
from mova_jax.suites import SUITES, Suite, SuiteResult, SuiteTable
from mova_jax.suites.suite import load_result
from mova_jax.training import run as run_lib
from mova_jax.utils import atomic
from mova_jax.utils.metric_log import last_metrics
from tests import tiny
from tests.export.test_import_clip import make_clip


@pytest.fixture(scope="module", autouse=True)
def one_process():
    """JAX runs in this process already, so that it can join no others."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(processes, "start_processes", lambda *_: None)
        yield


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def run(cache, tmp_path_factory):
    """The workdir of a complete run of three steps."""
    workdir = tmp_path_factory.mktemp("runs") / "tiny"
    sizes = tiny.RUN | {"data.cache": str(cache), "train.steps": 3}
    changes = {name.replace(".", "__"): value for name, value in sizes.items()}
    assert run_lib.run(tiny.config("parts_ordered", **changes), workdir) == 0
    return workdir


@pytest.fixture(scope="module")
def evaluated(run, tmp_path_factory):
    """The output of an evaluation of that run."""
    output = tmp_path_factory.mktemp("out") / "run"
    assert evaluate.main(["--model", str(run), "--output", str(output)]) == 0
    return output


WAYS = ("t2v", "v2t", "sentence", *(f"corpus_moment_iou{iou}" for iou in (0.3, 0.5, 0.7)))


def ranks(folder, split="test"):
    return dict(np.load(folder / "ranks" / f"{split}.npz"))


def assert_same_ranks(one, other):
    one, other = ranks(one), ranks(other)
    assert one.keys() == other.keys()
    for name in one:
        np.testing.assert_array_equal(one[name], other[name], err_msg=name)


def test_a_run_gets_the_figures_that_it_wrote(run, evaluated):
    wrote, found = (last_metrics(f / "metrics.jsonl") for f in (run, evaluated))
    expected = {name: value for name, value in wrote.items() if name.startswith("test/")}
    assert expected and {name: found[name] for name in expected} == expected
    assert_same_ranks(run, evaluated)
    figures = json.loads((evaluated / "evaluation.json").read_text())
    assert figures["figures"]["test"]["t2v/r1"] == wrote["test/t2v/r1"]
    assert "8 videos, 8 captions" in figures["protocols"]["test"]
    assert (evaluated / "report.html").exists()


def test_an_export_ranks_as_its_run_to_the_last_query(run, cache, tmp_path, capsys):
    assert convert.main(["export", str(run), str(tmp_path / "out")]) == convert.DONE
    (data,) = cache.glob("storyboard-*")
    command = ["--model", str(tmp_path / "out" / "pytorch"), "--data", f"{data}:test"]
    command += ["--output", str(tmp_path / "evaluated"), "--against", str(run)]
    assert evaluate.main(command) == 0
    assert_same_ranks(run, tmp_path / "evaluated")
    said = capsys.readouterr().out.split("\n")
    compared = [line.split() for line in said if line.endswith("+0.0 (+0.0 to +0.0)")]
    names = {f"{way}/r{k}" for way in WAYS for k in (1, 5, 10)}
    assert {name for name, *_ in compared} == names


def test_another_gallery_is_refused_before_the_evaluation_begins(run, tmp_path, capsys):
    other, known = tmp_path / "other", ranks(run)
    (other / "ranks").mkdir(parents=True)
    names = np.char.replace(known["v2t_video"], "test-", "elsewhere-")
    np.savez(other / "ranks" / "test.npz", **known | {"v2t_video": names})
    command = ["--model", str(run), "--output", str(tmp_path / "out")]
    assert evaluate.main([*command, "--against", str(other)]) == 1
    assert "its video 0 is elsewhere-000000, here it is test-000000" in capsys.readouterr().err
    assert evaluate.main([*command, "--against", "nowhere"]) == 1
    assert "nowhere has no ranks of test" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_clip_is_evaluated_without_training(run, cache, tmp_path):
    make_clip(tmp_path / "clip")
    (data,) = cache.glob("storyboard-*")
    command = ["--model", str(tmp_path / "clip"), "--data", str(data), "--splits", "test"]
    command += ["--output", str(tmp_path / "out"), "--set", "eval.frames=3"]
    assert evaluate.main(command) == 0
    found = json.loads((tmp_path / "out" / "evaluation.json").read_text())
    assert found["model"]["kind"] == "clip" and found["settings"]["frames"] == 3
    assert "chosen on validation of these data" in found["protocols"]["test"]
    assert 0 <= found["figures"]["test"]["modular/t2v/r1"] <= 100


def test_a_finished_split_is_not_evaluated_again(run, evaluated, capsys):
    before = (evaluated / "ranks" / "test.npz").stat().st_mtime_ns
    assert evaluate.main(["--model", str(run), "--output", str(evaluated)]) == 0
    assert "Evaluating on" not in capsys.readouterr().out
    assert (evaluated / "ranks" / "test.npz").stat().st_mtime_ns == before


def test_a_run_that_was_trained_again_to_the_same_step_is_another_model(
    run, evaluated, tmp_path, capsys
):
    output = tmp_path / "out"
    shutil.copytree(evaluated, output)
    about = json.loads((output / "evaluation.json").read_text())
    command = ["--model", str(run), "--output", str(output)]
    (output / "evaluation.json").write_text(json.dumps(about | {"weights": about["weights"] + 1}))
    assert evaluate.main(command) == 1
    assert "holds another evaluation: its weights" in capsys.readouterr().err
    former = {name: value for name, value in about.items() if name not in ("weights", "scoring")}
    (output / "evaluation.json").write_text(json.dumps(former))
    assert evaluate.main(command) == 0  # of an earlier version, which did not write them


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "--model is missing"),
        (["--model", "nowhere"], "There is no nowhere"),
        (["--model", "RUN", "--set", "eval.frames=2"], "holds another evaluation"),
        (["--model", "RUN", "--set", "losses.order=0.9"], "holds another evaluation: its scoring"),
        (["--model", "RUN", "--splits", "tset"], "has the splits train, validation, test"),
        (["--model", "RUN", "--set", "model.dtype=float32"], "model.dtype: an evaluation takes"),
        (["--model", "RUN", "--suite", "lonform"], "--suite: got lonform"),
        (["--model", "RUN", "--against", "nowhere"], "nowhere has no ranks of test"),
    ],
    ids=lambda value: None if isinstance(value, list) else value[:20],
)
def test_what_cannot_be_done_is_refused_with_its_reason(run, evaluated, capsys, words, message):
    words = [str(run) if word == "RUN" else word for word in words]
    assert evaluate.main([*words, "--output", str(evaluated)]) == 1
    error = capsys.readouterr().err
    assert message in error and error.startswith("evaluate: ")


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        ("shards/own", ("shards/own", "")),
        ("shards/own:test", ("shards/own", "test")),
        ("gs://bucket/own", ("gs://bucket/own", "")),
        ("gs://bucket/own:ood_time", ("gs://bucket/own", "ood_time")),
        ("tfds:msrvtt", ("tfds:msrvtt", "")),
        ("tfds:msrvtt/1.0.0:test", ("tfds:msrvtt/1.0.0", "test")),
    ],
)
def test_a_split_may_follow_the_data(data, expected):
    assert data_and_split(data) == expected


def test_a_suite_is_asked_once_and_shown(tmp_path, monkeypatch, capsys):
    asked = []

    def ask(suite_input):
        asked.append(suite_input.seed)
        table = SuiteTable("Recall", {"minutes": "minutes", "r1": "R@1"}, [{"minutes": 1}])
        return SuiteResult("It holds <so far>.", "no data", [table])

    suite = Suite(ask, "Made", "Does it?", needs_model=False)
    monkeypatch.setitem(SUITES, "made", suite)
    command = ["--suite", "made", "--output", str(tmp_path), "--seed", "3"]
    assert evaluate.main(command) == evaluate.main(command) == 0
    assert asked == [3]
    assert "| minutes | R@1 |" in capsys.readouterr().out
    page = (tmp_path / "suites" / "made" / "report.html").read_text()
    assert "It holds &lt;so far&gt;." in page
    assert evaluate.main([*command[:-1], "4"]) == 1  # the output has the answer to another question
    assert "choose another --output" in capsys.readouterr().err
    monkeypatch.setitem(SUITES, "made", dataclasses.replace(suite, needs_model=True))
    assert evaluate.main(command) == 1


def test_a_suite_reads_the_keys_of_set_and_no_flag_of_an_evaluation(run, tmp_path, monkeypatch):
    def ask(suite_input):
        return SuiteResult(str(suite_input.cache), f"{suite_input.model.config.eval.frames} frames")

    monkeypatch.setitem(SUITES, "made", Suite(ask, "Made"))
    command = ["--model", str(run), "--suite", "made", "--output", str(tmp_path)]
    assert evaluate.main([*command, "--set", "data.cache=elsewhere", "eval.frames=5"]) == 0
    kept = load_result(tmp_path / "suites" / "made")
    assert (kept.verdict, kept.protocol) == ("elsewhere", "5 frames")
    for flags in (["--splits", "test"], ["--against", "runs/b"], ["--classes", "c.json"]):
        with pytest.raises(SystemExit, match="2"):
            evaluate.main([*command, *flags])


def test_an_evaluation_that_was_stopped_at_its_first_write_goes_on(
    run, evaluated, tmp_path, monkeypatch
):
    write, output, calls = atomic.write_text, tmp_path / "out", []

    def full(path, text, **options):
        calls.append(path)
        if len(calls) == 2:
            raise OSError(28, "No space left on device")
        write(path, text, **options)

    monkeypatch.setattr(atomic, "write_text", full)
    assert evaluate.main(["--model", str(run), "--output", str(output)]) == 1
    monkeypatch.setattr(atomic, "write_text", write)
    assert len(list(output.iterdir())) == 1
    assert evaluate.main(["--model", str(run), "--output", str(output)]) == 0
    assert (output / "config.json").read_text() == (evaluated / "config.json").read_text()
    assert_same_ranks(output, evaluated)


def test_a_damaged_evaluation_is_said(run, evaluated, tmp_path, capsys):
    shutil.copytree(evaluated, tmp_path / "out")
    (tmp_path / "out" / "evaluation.json").write_text('{"model": ')
    assert evaluate.main(["--model", str(run), "--output", str(tmp_path / "out")]) == 1
    assert "evaluation.json is damaged" in capsys.readouterr().err
