"""The suite `montage`: galleries of captioned pictures, figures of a tiny model, the verdict."""

import dataclasses
import json
import math

import jax
import numpy as np
import pytest

from mova_jax.data.images import encode_jpeg
from mova_jax.data.montage.generate import (
    MontageSettings,
    PictureSettings,
    Source,
    make_montages,
    make_pictures,
)
from mova_jax.data.montage.plan import PlanSettings
from mova_jax.models.build import make_model_spec
from mova_jax.parallel.mesh import make_mesh
from mova_jax.suites import SUITES, SuiteInput
from mova_jax.suites.montage import verdict
from mova_jax.suites.montage.galleries import galleries
from mova_jax.training.load_model import RUN, LoadedModel, with_parts
from mova_jax.training.workdir import RunError
from tests import tiny
from tests.clips import write_lines

SIZE = 16
WORDS = "red dog runs fast past old green house near water under bright sky".split()


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """Pictures of noise, 30 of test and 20 of validation, with two captions each."""
    folder, rng = tmp_path_factory.mktemp("in") / "noise", np.random.default_rng(0)
    folder.mkdir()
    lines = []
    for number in range(50):
        image = rng.integers(0, 256, (SIZE, SIZE, 3), np.uint8)
        (folder / f"{number}.jpg").write_bytes(encode_jpeg(image))
        captions = [" ".join(rng.choice(WORDS, 4)) for _ in range(2)]
        split = "test" if number < 30 else "val"
        lines.append({"image": f"{number}.jpg", "captions": captions, "split": split})
    return write_lines(folder / "captions.jsonl", *lines)


@pytest.fixture(scope="module")
def shards(source, tmp_path_factory):
    """Single pictures, and montages of 3 and of 6, of one domain."""
    room, read = tmp_path_factory.mktemp("shards") / "noise", Source.read(source)
    common = {"size": SIZE, "vocab_size": 600}
    test = dataclasses.replace(read, items={"test": read.of("test")})
    make_pictures(test, room / "pictures", PictureSettings(**common))
    for items in (3, 6):
        plan = PlanSettings((items, items), named=(2, 2), seconds=(1.0, 2.0))
        settings = MontageSettings(**common, videos={"test": 5}, plan=plan)
        make_montages(read, room / f"m{items}", settings)
    return room


@pytest.fixture(scope="module")
def model(shards):
    """Untrained towers with a global score alone."""
    sizes = {
        "model__vision__image_size": SIZE,
        "model__text__context": 64,
        "model__text__vocab_size": 600,
        "data__token_buckets": (64,),
    }
    config = tiny.config("global_only", **sizes)
    spec = make_model_spec(config.model)
    params = jax.jit(lambda: spec.init_params(0))()
    return LoadedModel(
        shards, RUN, config, spec, params, shards / "pictures" / "tokenizer", 0, None
    )


def test_galleries_of_captioned_pictures_are_made_once(source, tmp_path):
    options = {"items": (4, 8, 40), "videos": 5, "fewest": 3}
    found = galleries([str(source.parent)], tmp_path, SIZE, 0, **options)
    assert [gallery.domain for gallery in found] == ["noise"] * len(found)
    assert [(g.items, g.videos, g.split) for g in found] == [
        (1, 30, "test"),
        (4, 5, "test"),
        (8, 5, "test"),
        (12, 3, "validation"),
    ]  # 40 items do not fit
    assert [gallery.tuning for gallery in found] == [False, False, False, True]
    assert 0.5 < found[1].minutes < 0.9  # four items of about 10 s
    assert galleries([str(source)], tmp_path, SIZE, 0, **options) == found
    with pytest.raises(RunError, match="too few for 3 videos of 40"):
        galleries([str(source)], tmp_path, SIZE, 0, items=(40,), fewest=3)
    with pytest.raises(RunError, match="neither shards nor a captions"):
        galleries([str(tmp_path)], tmp_path, SIZE, 0)
    with pytest.raises(RunError, match="needs data"):
        galleries([], tmp_path, SIZE, 0)


def test_towers_without_parts_get_them_as_sharp_as_their_global_score(model):
    parts = with_parts(model)
    assert parts.config.data.parts == 8 and with_parts(parts) is parts
    scale = float(np.exp(model.params["logit_scale"]))
    assert float(np.exp(parts.params["log_sharpness"])) == pytest.approx(scale)
    same = parts.params["vision"]["projection"]["kernel"]
    np.testing.assert_array_equal(same, model.params["vision"]["projection"]["kernel"])


def test_the_suite_asks_all_lengths_and_resumes(model, shards, tmp_path):
    data = tuple(str(shards / name) for name in ("m6", "pictures", "m3"))
    asked = SuiteInput(model, make_mesh(data=1), tmp_path / "out", tmp_path / "cache", data)
    result = SUITES["montage"].fn(asked)
    single, montages, slopes = result.tables
    (row,) = single.rows
    assert (row["videos"], row["queries"]) == (30, 60)
    assert row["chance_r10"] == pytest.approx(100 / 3)
    # One frame and one sentence: all scores are the same cosine.
    hits = json.loads((tmp_path / "out" / "figures" / "noise-pictures-test.json").read_text())[
        "hits"
    ]
    assert hits["modular"] == hits["global"] == hits["blend"]
    assert [row["items"] for row in montages.rows] == [3, 6]
    assert all(row["queries"] == 10 and 0 <= row["hit"] <= 100 for row in montages.rows)
    assert {row["score"] for row in slopes.rows} == {"global", "by parts", "blend"}
    assert "On noise, a caption finds its picture among 30" in result.verdict
    figures = tmp_path / "out" / "figures" / "noise-m3-test.json"
    written = figures.stat().st_mtime_ns
    assert SUITES["montage"].fn(asked) == result and figures.stat().st_mtime_ns == written


def _figures(domain, items, r10, videos=8):
    hits = (np.arange(videos) < r10 * videos / 100).astype(float).tolist()
    return {
        "domain": domain,
        "items": items,
        "minutes": items / 6,
        "videos": videos,
        "queries": videos,
        "weight": 1.0,
        "hits": {"global": {"r1": hits, "r10": hits}, "modular": {"r1": hits, "r10": hits}},
        "chance": {"r1": 1.0, "r10": 10.0},
        "grounding": {},
    }


def test_the_slope_is_that_of_a_line_through_the_doublings():
    falling = [_figures("a", items, r10) for items, r10 in ((4, 100), (8, 75), (16, 50))]
    points, low, high = verdict.slope(falling, "global", "r10", seed=0)
    assert points == pytest.approx(-25.0) and low < -25 < high
    assert verdict.slope(falling[:1], "global", "r10", 0) is None
    uneven = [falling[0], _figures("a", 8, 50, videos=4)]
    points, low, high = verdict.slope(uneven, "global", "r10", 0)
    assert points == pytest.approx(-50.0) and math.isnan(low) and math.isnan(high)


def test_the_verdict_says_what_the_figures_say():
    inside = [_figures("in", 1, 50), _figures("in", 4, 100), _figures("in", 16, 0)]
    outside = [_figures("out", 1, 0), _figures("out", 4, 50), _figures("out", 16, 50)]
    text = verdict.verdict([*inside, *outside], seed=0)
    assert "On in, a caption finds its picture among 8 first in 50.0 %" in text
    assert "in, by parts: R@10 100.0 % with 4 items (0.7 minutes), 0.0 % with 16" in text
    assert "-50.0 points a doubling (-50.0 to -50.0), so it falls." in text
    assert "+0.0 points a doubling (+0.0 to +0.0), so it may not change at all." in text
    assert "From in to out, R@10 changes: global -50.0 points with 4 items and +50.0" in text
    assert "as weak as on out (R@1" in text
    assert "in, by parts minus global, R@10: +0.0 points (+0.0 to +0.0) with 4 items" in text
    assert "as weak" not in verdict.verdict(inside, seed=0)
