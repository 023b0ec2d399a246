"""Evaluates a model on a split: `EVALUATIONS`, the one table that a new evaluation is added to.

    evaluator = Evaluator(spec, config, mesh, folder, tokenizer)
    metrics = evaluator.evaluate(params, "validation")
    metrics = evaluator.evaluate(params, "test", blend_weight=metrics["blend/weight"])

An evaluation is a function of an `EvalContext` that returns flat metrics (`global/t2v/r1`,
`leak/own_masks_auc` ...), and a line in the table; the caller adds the name of the split. The
report shows the metrics by the labels in the table.

Every video and every caption goes through the towers once. Embeddings are kept on the host;
blocks of videos are scored against blocks of captions on the devices. `config.eval.queries` says
which captions search for the videos; all else is measured on a video and its first caption.
"""

import os
from typing import Any

import jax

from mova_jax.config import Config
from mova_jax.data.classes import Classes
from mova_jax.data.pipeline.dataset import record_ids
from mova_jax.data.tokenizer import Tokenizer
from mova_jax.evaluation import grounding, leak, masks, retrieval, sentence_of_frame
from mova_jax.evaluation.context import EvalContext, Evaluation
from mova_jax.evaluation.jitted import EvalFns
from mova_jax.evaluation.protocols import (
    classification,
    corpus_moments,
    dual_softmax,
    lengths,
    sentences,
)
from mova_jax.evaluation.protocols import grounding as moment_grounding
from mova_jax.evaluation.query_ranks import save_ranks
from mova_jax.evaluation.timeline import Timeline, timelines
from mova_jax.models.build import ModelSpec
from mova_jax.parallel.processes import is_main

EVALUATIONS: dict[str, Evaluation] = {
    "retrieval": retrieval.EVALUATION,
    "masks": masks.EVALUATION,
    "leak": leak.EVALUATION,
    "grounding": grounding.EVALUATION,
    "sentence_of_frame": sentence_of_frame.EVALUATION,
    "lengths": lengths.EVALUATION,
    "sentences": sentences.EVALUATION,
    "moments": moment_grounding.EVALUATION,
    "corpus_moments": corpus_moments.EVALUATION,
    "classification": classification.EVALUATION,
    "dual_softmax": dual_softmax.EVALUATION,
}


class Evaluator:
    """Evaluates models of one architecture on the splits of one data set."""

    def __init__(
        self,
        spec: ModelSpec,
        config: Config,
        mesh: jax.sharding.Mesh,
        folder: str | os.PathLike,
        tokenizer: Tokenizer,
        classes: Classes | None = None,
    ):
        """Prepares; nothing is compiled before it is used.

        Args:
            spec: of the model.
            config: the sections `data`, `eval`, `losses` and `model` and the seed are read.
            mesh: to run on.
            folder: of the shards.
            tokenizer: of the captions.
            classes: of zero-shot classification; None for none.
        """
        self._classes = classes
        self._config, self._folder, self._tokenizer = config, folder, tokenizer
        self._fns = EvalFns(spec, config.losses, config.eval, mesh)

    def context(self, params: Any, split: str, **options) -> EvalContext:
        """The input of evaluations; `options` are fields of `EvalContext`."""
        return EvalContext(
            self._config,
            self._fns,
            self._folder,
            self._tokenizer,
            params,
            split,
            classes=self._classes,
            **options,
        )

    def evaluate(
        self,
        params: Any,
        split: str,
        blend_weight: float | None = None,
        final: bool = False,
        ranks_file: str | os.PathLike | None = None,
    ) -> dict[str, float]:
        """The metrics of all evaluations on a split.

        Args:
            params: of the model.
            split: its name.
            blend_weight: of the modular score, chosen on validation; None chooses it here, which
                is right on validation only.
            final: whether the split is tested, not looked at while training: adds the evaluations
                that are `final_only` and the intervals of R@1.
            ranks_file: where to keep the rank of every query (`query_ranks.save_ranks`), for
                comparisons of models query by query; written by the main process. None for nowhere.

        Raises:
            ValueError: two evaluations have a metric of one name.
        """
        context = self.context(params, split, blend_weight=blend_weight, final=final)
        metrics: dict[str, float] = {}
        for name, evaluation in EVALUATIONS.items():
            if not evaluation.applies(self._config) or (evaluation.final_only and not final):
                continue
            found = evaluation.fn(context)
            if twice := metrics.keys() & found.keys():
                raise ValueError(f"evaluation {name}: {sorted(twice)} are metrics of another one")
            metrics |= found
        if ranks_file is not None and is_main():
            ids = record_ids(self._folder, split, range(context.num_videos))
            save_ranks(ranks_file, context.query_ranks, ids, context.other_ranks)
        return metrics

    def timelines(self, params: Any, split: str, count: int) -> list[Timeline]:
        """The timelines of the first `count` videos of a split."""
        return timelines(self.context(params, split, limit=count))
