"""Evaluates a trained model on a data set: the work of `python -m mova_jax.evaluate`.

    evaluated = evaluate_model(load_model("runs/base"), "shards/own", "out/base-on-own")
    compare(evaluated, "out/clip-on-own")

The output folder is laid out like the workdir of a run, so that all that reads runs reads it:

OUTPUT/evaluation.json      the model, the data, and for each split its protocol and its figures
OUTPUT/config.json  metrics.jsonl  ranks/SPLIT.npz  plots/  report.html
"""

import dataclasses
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mova_jax import config as config_lib
from mova_jax.config import Config
from mova_jax.data.classes import read_classes
from mova_jax.data.pipeline.queries import CAPTION, query_protocol
from mova_jax.data.sources import open_source, splits_of
from mova_jax.data.tokenizer import Tokenizer
from mova_jax.evaluation.evaluator import Evaluator
from mova_jax.evaluation.paired import check_gallery, differences
from mova_jax.parallel import mesh as mesh_lib
from mova_jax.parallel.processes import barrier, is_main, log_main
from mova_jax.training.datasets import STORYBOARD, open_data
from mova_jax.training.final_evaluation import evaluate_splits
from mova_jax.training.load_model import RUN, LoadedModel
from mova_jax.training.setup import enable_compilation_cache
from mova_jax.training.workdir import CONFIG, RANKS, RunError
from mova_jax.utils import atomic
from mova_jax.utils.checksum import state_checksums
from mova_jax.utils.metric_log import METRICS_FILE, last_metrics

EVALUATION = "evaluation.json"
TIMELINES = 4  # videos that the report draws
_FEW = 64  # training videos of Storyboard where only its other splits are wanted


@dataclasses.dataclass(frozen=True)
class EvaluatedModel:
    """A finished evaluation."""

    folder: Path  # of the results
    source: str  # of the data
    splits: tuple[str, ...]
    protocols: dict[str, str]  # by split
    metrics: dict[str, dict[str, float]]  # by split, flat names without it


def evaluate_model(
    model: LoadedModel,
    data: str,
    output: str | os.PathLike,
    *,
    splits: Sequence[str] = (),
    classes: str = "",
    against: str | os.PathLike = "",
) -> EvaluatedModel:
    """Evaluates a model on splits of a data set, and writes figures, ranks and the report.

    Args:
        model: from `load_model`; its config says how it is evaluated, see `with_changes`.
        data: a folder or URL of shards, `tfds:NAME`, or `storyboard`; '' for the data of the run.
        output: folder for the results; splits that it has already are not evaluated again.
        splits: their names; without any, those that the run tests on its own data, and on other
            data all but the one for training.
        classes: file of the classes of zero-shot classification (`data/classes.py`); '' for none.
        against: what `compare` will compare with, to be refused here where that cannot be done;
            '' for nothing.

    Raises:
        ClassesError: `classes` is not a file of classes, or a video has none of them.
        RunError: the data or the splits are not there, `output` holds another evaluation, or
            `against` has no ranks of these splits, or ranks of other videos.
        ShardError: the data cannot be read.
    """
    output = Path(output)
    named = read_classes(classes) if classes else None  # before anything that takes long
    own = model.kind == RUN and data in ("", model.config.data.source)
    config = _with_source(model.config, data, own)
    enable_compilation_cache(config)
    folder = open_data(config)
    splits = _chosen(folder, splits or (config.eval.splits if own else ()), asked=bool(splits))
    if against:
        _check_against(Path(against), folder, splits)
    if is_main():
        _claim(output, model, config, folder, classes)
    barrier("the output folder is claimed")
    mesh = mesh_lib.make_mesh(config.mesh if model.kind == RUN else None)
    params = model.params_on(mesh)
    try:
        tokenizer = Tokenizer(model.tokenizer, config.model.text.context)
    except ValueError as error:
        raise RunError(str(error)) from error
    evaluator = Evaluator(model.spec, config, mesh, folder, tokenizer, named)
    weight, how = _blend_weight(model, evaluator, params, folder)
    evaluate_splits(evaluator, params, splits, output, blend_weight=weight, step=model.step)
    found = last_metrics(output / METRICS_FILE) if is_main() else {}
    metrics = {split: _of_split(found, split) for split in splits}
    protocols = {
        split: protocol_line(config, folder, split, metrics[split], how) for split in splits
    }
    timelines = evaluator.timelines(params, splits[0], TIMELINES)
    if is_main():
        # Imported here: matplotlib takes 0.2 s.
        from mova_jax.report.report import write_report

        _write_figures(output, {"protocols": protocols, "figures": metrics})
        write_report(output, timelines)
    barrier("the report is written")
    return EvaluatedModel(output, str(folder), tuple(splits), protocols, metrics)


def with_changes(config: Config, changes: dict[str, Any]) -> Config:
    """The configuration of an evaluation with some keys set.

    Only the sections that an evaluation reads may change, and each is checked by itself: what a
    recipe of training needs is of no concern here.

    Raises:
        ConfigError: for a key of another section, and for values that are not legal.
    """
    legal = ("data", "eval", "losses", "mesh")
    by_section: dict[str, dict[str, Any]] = {}
    for name, value in changes.items():
        section, _, key = name.partition(".")
        if section not in legal or not key:
            raise config_lib.ConfigError(
                [f"{name}: an evaluation takes keys of the sections {', '.join(legal)}"]
            )
        by_section.setdefault(section, {})[key] = value
    for name, values in by_section.items():
        old = getattr(config, name)
        made = config_lib.section(type(old), dataclasses.asdict(old) | values)
        config = dataclasses.replace(config, **{name: made})
    return config


def protocol_line(
    config: Config, folder: str | os.PathLike, split: str, found: dict[str, float], how: str
) -> str:
    """How the figures of a split were made, in one line.

    Args:
        config: of the evaluation.
        folder: of the data.
        split: its name.
        found: its metrics.
        how: the score of record was made.
    """
    videos, captions = found.get("gallery", 0), found.get("gallery_captions", 0)
    queries = query_protocol(folder, config.eval.queries)
    each = "one caption of all sentences a video" if queries == CAPTION else "each a query"
    line = [
        f"{split} of {Path(folder).name}: {videos:,.0f} videos, {captions:,.0f} captions, {each}",
        f"{config.eval.frames} frames a video, evenly spaced",
        how,
        "ties count half",
        f"seed {config.seed}",
    ]
    if count := found.get("rerank"):
        line.append(f"masks for the best {count:.0f} of each query")
    return "; ".join(line)


def compare(evaluated: EvaluatedModel, other: str | os.PathLike) -> dict[str, dict[str, Any]]:
    """Paired differences to another evaluation of the same queries, kept in evaluation.json.

    Args:
        evaluated: from `evaluate_model`.
        other: folder of an evaluation, or the workdir of a run.

    Returns:
        `{split: {"t2v/r1": (difference, low, high), ...}}` in points, by the scores of record, for
        the splits that both have.

    Raises:
        RunError: the other one has no ranks of these splits, or ranks of other queries.
    """
    other, found = Path(other), {}
    for split, path in _ranks_of(other, evaluated.splits).items():
        try:
            found[split] = differences(evaluated.folder / RANKS / path.name, path)
        except ValueError as error:
            raise RunError(str(error)) from error
    _write_figures(evaluated.folder, {"against": {"path": str(other), "differences": found}})
    return found


def _check_against(other: Path, folder: str | os.PathLike, splits: Sequence[str]) -> None:
    """Refuses another evaluation that cannot be compared, before this one begins.

    Raises:
        RunError: it has no ranks of these splits, or ranks of other videos.
    """
    found = _ranks_of(other, splits)
    for split in splits:
        if split not in found:
            log_main(f"{other} has no ranks of {split}: it is not compared.")
            continue
        source = open_source(folder, split)
        try:
            check_gallery(found[split], len(source), lambda i, source=source: source[i].id)
        except ValueError as error:
            raise RunError(
                f"--against: {error}; give an evaluation of the same data, or leave --against out"
            ) from error


def _ranks_of(other: Path, splits: Sequence[str]) -> dict[str, Path]:
    """The files of ranks of the splits that another evaluation has.

    Raises:
        RunError: it has none of them.
    """
    files = {split: other / RANKS / f"{split}.npz" for split in splits}
    if found := {split: path for split, path in files.items() if path.is_file()}:
        return found
    raise RunError(
        f"{other} has no ranks of {', '.join(splits)} in {RANKS}/: give the output of an "
        "evaluation, or the workdir of a run, that has these splits"
    )


def _with_source(config: Config, data: str, own: bool) -> Config:
    """The configuration with the data to evaluate on."""
    if own:
        return config
    if not data:
        raise RunError(
            "Only a run knows its data: say with --data on which shards to evaluate this model"
        )
    changed = {"source": data}
    if data == STORYBOARD:
        changed["train_videos"] = _FEW
    return dataclasses.replace(config, data=dataclasses.replace(config.data, **changed))


def _chosen(folder: str | os.PathLike, splits: Sequence[str], asked: bool) -> list[str]:
    """The splits to evaluate.

    Raises:
        RunError: there are none, or one that was asked for is missing.
    """
    known = list(splits_of(folder))
    missing = [split for split in splits if split not in known]
    if missing and asked:
        raise RunError(f"{folder} has the splits {', '.join(known)}, but no {', '.join(missing)}")
    for split in missing:
        log_main(f"There is no split {split} in {folder}: it is not evaluated.")
    found = [split for split in splits if split in known] or [s for s in known if s != "train"]
    if not found:
        raise RunError(f"{folder} has only the split train: name it (SHARDS:train) to evaluate it")
    return found


def _claim(
    output: Path, model: LoadedModel, config: Config, folder: str | os.PathLike, classes: str
) -> None:
    """Writes config.json and evaluation.json, unless they are those of this evaluation.

    Raises:
        RunError: the folder belongs to another evaluation, or to a run.
    """
    sections = json.loads(config_lib.to_json(config))
    about = {
        "model": {
            "path": model.origin,
            "kind": model.kind,
            "objective": config.objective,
            "step": model.step,
        },
        "data": str(folder),
        "classes": classes,
        "settings": sections["eval"],
        "scoring": {"losses": sections["losses"], "parts": config.data.parts},
        "weights": state_checksums({"params": model.params})["params"],
    }
    file = output / EVALUATION
    if file.exists():
        found = _read_figures(file)
        # An earlier version wrote less.
        found |= {k: about[k] for k in ("scoring", "weights") if k not in found}
        differing = [k for k in about if found.get(k, "") != about[k]]
        if differing:
            name = differing[0]
            raise RunError(
                f"{output} holds another evaluation: its {name} is {found.get(name) or 'none'}, "
                f"this one's is {about[name] or 'none'}; choose another --output"
            )
    elif (output / CONFIG).exists():
        raise RunError(f"{output} is the workdir of a run: choose another --output")
    else:  # first, for it tells an evaluation that was stopped here from a run
        atomic.write_text(file, json.dumps(about, indent=1))
    if not (output / CONFIG).exists():
        atomic.write_text(output / CONFIG, config_lib.to_json(config))


def _write_figures(output: Path, more: dict[str, Any]) -> None:
    """Adds entries to evaluation.json."""
    if not is_main():
        return
    file = output / EVALUATION
    atomic.write_text(file, json.dumps(_read_figures(file) | more, indent=1))


def _read_figures(file: Path) -> dict[str, Any]:
    """The object of an evaluation.json.

    Raises:
        RunError: it is damaged.
    """
    try:
        return dict(json.loads(file.read_text(encoding="utf-8")))
    except (ValueError, TypeError) as error:
        raise RunError(
            f"{file} is damaged ({error}): delete it, or choose another --output"
        ) from error


def _blend_weight(
    model: LoadedModel, evaluator: Evaluator, params: Any, folder: str | os.PathLike
) -> tuple[float, str]:
    """The weight of the modular score in the blend, and what the score of record is."""
    if not model.config.model.modular_scale:
        return 0.0, "score of record: global"
    if model.blend_weight is not None:
        chosen = f"weight {model.blend_weight:g}, chosen on validation in training"
        return model.blend_weight, f"score of record: blend, {chosen}"
    if "validation" not in splits_of(folder):
        return 1.0, "score of record: blend, weight 1 (there is no validation split to choose on)"
    log_main("Choosing the weight of the blend on validation")
    weight = evaluator.evaluate(params, "validation")["blend/weight"]
    return weight, f"score of record: blend, weight {weight:g}, chosen on validation of these data"


def _of_split(metrics: dict[str, float], split: str) -> dict[str, float]:
    prefix = f"{split}/"
    return {k.removeprefix(prefix): v for k, v in metrics.items() if k.startswith(prefix)}
