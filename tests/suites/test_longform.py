"""The suites of long videos and of other domains, on a tiny model and on made figures."""

import json
import types

import numpy as np
import pytest

from mova_jax.data.tokenizer import train_tokenizer
from mova_jax.evaluation.intervals import difference_interval, wilson
from mova_jax.parallel.mesh import make_mesh
from mova_jax.suites import outdomain
from mova_jax.suites.long_gallery import LongAsker, LongGallery
from mova_jax.suites.longform import LongformSettings, longform
from mova_jax.suites.longform_report import report
from mova_jax.suites.suite import SuiteInput
from mova_jax.training.load_model import RUN, LoadedModel
from mova_jax.training.state import make_train_spec
from mova_jax.typing import TextEmbedding, VideoEmbedding
from tests import tiny
from tests.evaluation.test_ranks import dense_ranks
from tests.evaluation.test_rerank import two_stage


@pytest.fixture(scope="module")
def asked(tmp_path_factory):
    """An untrained model, and the folders of a suite."""
    folder = tmp_path_factory.mktemp("suite")
    train_tokenizer(["a red circle moves left", "then it stops"] * 4, 520, folder / "tokenizer")
    changes = {name.replace(".", "__"): value for name, value in tiny.RUN.items()}
    changes |= {"model__text__vocab_size": 520, "data__cache": str(folder / "cache")}
    config = tiny.config("parts_ordered", **changes)
    mesh = make_mesh(data=1)
    spec = make_train_spec(config, mesh)
    params = tiny.initial(spec).params
    model = LoadedModel(
        folder, RUN, config, spec.model_spec, params, folder / "tokenizer", 0, blend_weight=2.0
    )
    return SuiteInput(model, mesh, folder / "out", folder / "cache")


class Table:
    """Scores from two tables, in place of a model; counts the pairs that get masks."""

    def __init__(self, first, modular):
        self.first, self.modular, self.masked = first, modular, 0

    def pair_block(self, captions, masks=True):
        return (4, 2) if masks else (3, 5)

    def first_stage(self, params, video, text, block):
        scores = self._of(self.first, video, text)
        return {"global": scores, "first": scores}

    def pairs(self, params, video, text, block):
        assert block == (4, 1)
        self.masked += len(video.frames)
        tables = {"global": self.first, "modular": self.modular}
        return {name: self._of(table, video, text) for name, table in tables.items()}

    def _of(self, table, video, text):
        rows, columns = video.frames[:, 0, 0].astype(int), text.pooled[:, 0].astype(int)
        return table[np.ix_(rows, columns)]


def test_masks_of_pairs_are_made_for_the_best_answers_only():
    rng, videos, k = np.random.default_rng(0), 11, 3
    first, modular = rng.normal(size=(2, videos, videos)).astype(np.float32)
    numbers = np.arange(videos, dtype=np.float16)[:, None]  # vectors that say which one they are
    none = np.zeros((videos, 0))
    text = TextEmbedding(pooled=numbers, tokens=none[..., None], token_mask=none.astype(bool))
    gallery = LongGallery(list(numbers[:, None]), [np.zeros(1)] * videos, text, [], None)
    asker = object.__new__(LongAsker)  # without a model to compile
    asker._fns, asker._params, asker._weight = Table(first, modular), None, 2.0
    asker.encoder = types.SimpleNamespace(pool=lambda v, mask: VideoEmbedding(v, mask, v[:, 0]))
    asker.candidates = k
    found = asker._ranks(gallery, [np.zeros(1, int)] * videos)
    for name, second in (("modular", modular), ("blend", first + 2 * modular)):
        t2v, _ = dense_ranks(two_stage(first.T, second.T, k).T, np.arange(videos))
        _, v2t = dense_ranks(two_stage(first, second, k), np.arange(videos))
        ranks = found.by_score[name]
        assert (ranks.t2v.values.tolist(), ranks.v2t.values.tolist()) == (t2v, v2t)
    assert k * videos <= asker._fns.masked <= 2 * k * videos and found.reranked == k


def test_longform_measures_each_gallery_once_and_says_what_came_out(asked, monkeypatch):
    asked.output.mkdir(exist_ok=True)
    sizes = LongformSettings((1, 2), videos=4, every=4, budgets=(5,), policies=("even", "change"))
    result = longform(asked, sizes)
    every, policies = result.tables
    assert [row["minutes"] for row in every.rows] == [1, 2, 1, 2]
    assert {row["frames"] for row in every.rows} == {15, 30}  # one every 4 s
    assert {row["frames"] for row in policies.rows} == {5}
    assert "points per doubling of the duration" in result.verdict
    assert result.verdict.count("By the modular score alone it goes from") == 2
    monkeypatch.setattr("mova_jax.suites.longform.ensure_long", None)  # made again, it would fail
    assert longform(asked, sizes) == result


def made_figures(minutes, domain, found):
    """Figures of a gallery of 100 videos, of which so many captions find theirs."""
    ranks = [1.0] * found + [2.0] * (100 - found)
    both = {"t2v": ranks, "v2t": ranks}
    condition = {"policy": "all", "budget": 0, "frames": 30.0, "taken": [], "hit": [], "iou": []}
    return {
        "about": {"minutes": minutes, "domain": domain, "videos": 100, "seed": 0},
        "frames": 30.0,
        "seconds": [60.0 * minutes] * 100,
        "video_of_sentence": [],
        "conditions": [condition | {"ranks": {"record": both, "global": both}}],
    }


@pytest.mark.parametrize(
    ("at_ten", "judged"),
    [
        (95, "which holds"),
        (60, "which does not hold"),
        (90, "these queries do not decide"),
    ],
)
def test_the_verdict_compares_ten_minutes_with_one(at_ten, judged):
    found = [made_figures(1, "story", 99), made_figures(10, "story", at_ten)]
    found += [made_figures(1, "ood_domain", 5), made_figures(10, "ood_domain", 5)]
    verdict = report(found, [], every=2, seed=0).verdict
    assert f"from 99.0 % at 1 min to {at_ten}.0 % at 10 min: {at_ten - 99:+.1f} points" in verdict
    assert judged in verdict
    assert "there was too little to lose" in verdict  # out of domain


def test_a_difference_has_newcombes_interval():
    # The worked example of Newcombe (1998), method 10: 56/70 against 48/80.
    difference, low, high = difference_interval((56, 48), (70, 80))
    np.testing.assert_allclose([difference, low, high], [20.0, 5.24, 33.39], atol=0.01)
    low, high = wilson(0, 256)
    assert low == 0 and 1 < high < 2  # an interval of [0, 0] would say that nothing is possible


def test_outdomain_compares_every_domain_with_the_known_one(asked):
    asked.output.mkdir(exist_ok=True)
    result = outdomain.outdomain(asked)
    (table,) = result.tables
    domains = [(row["data"], row["domain"], row["queries"]) for row in table.rows]
    assert domains == [
        ("storyboard, test", "story", 8),
        ("storyboard, ood_time", "story", 8),
        ("storyboard, ood_domain", "surveillance", 4),
        ("storyboard, ood_domain", "science", 4),
    ]
    assert "too few to say" in result.verdict


def test_the_drop_out_of_domain_is_said_with_its_interval():
    row = {"data": "test", "domain": "story", "queries": 100, "t2v_hits": 90.0, "global_hits": 50.0}
    other = row | {"data": "own", "domain": "science", "t2v_hits": 40.0, "global_hits": 10.0}
    said = outdomain.verdict([row, other])
    assert "from 90.0 % in test to 40.0 % in own (science): -50.0 points (-60." in said
    assert ", by the global vector goes from 50.0 % in test to 10.0 %" in said


def test_a_record_may_name_its_domain():
    class Record:
        truth = json.dumps({"domain": "science"})

    assert outdomain.domain(Record) == "science"
    for truth in ("", "no JSON", "[1]", '{"events": []}'):
        Record.truth = truth
        assert outdomain.domain(Record) == ""
