"""Weights for a model: read from disk, compared with its activation and heads."""

import dataclasses
import json

import numpy as np
import pytest
import torch

from mova_jax.weights.files import WeightsError, write_safetensors
from mova_jax.weights.layouts import to_flax
from mova_jax.weights.load import load_weights
from mova_jax.weights.torch_names import to_torch
from tests import tiny
from tests.weights import clips

PLAIN = {"objective": "global_only"}


def like_of(**changes):
    return clips.shapes(clips.config(**(PLAIN | changes)))


def problems_of(path, like, activation="quick_gelu", **options):
    with pytest.raises(WeightsError) as error:
        load_weights(path, like, activation, **options)
    return error.value.problems


def saved(folder, **changes):
    """A folder of transformers, with changes of its config.json (`text_config__hidden_act`)."""
    clips.reference().save_pretrained(folder)
    settings = json.loads((folder / "config.json").read_text())
    for name, value in changes.items():
        section, key = name.split("__")
        settings[section][key] = value
        if value is None:
            del settings[section][key]
    (folder / "config.json").write_text(json.dumps(settings))
    return folder


def test_a_folder_of_transformers_and_its_file(tmp_path):
    folder = saved(tmp_path)
    expected, _ = to_flax(clips.arrays(clips.reference().state_dict()), "huggingface", like_of())
    for path in (folder, str(folder), folder / "model.safetensors"):
        ours, report = load_weights(path, like_of(), "quick_gelu")
        assert report.layout == "huggingface" and report.problems == report.changes == []
        assert sorted(ours) == sorted(expected)
        for name, value in expected.items():
            np.testing.assert_array_equal(ours[name], value)


def test_activation_and_heads_of_the_config_have_to_agree(tmp_path):
    folder = saved(
        tmp_path,
        text_config__hidden_act="gelu",
        vision_config__hidden_act=None,  # left out where it is quick_gelu
        vision_config__num_attention_heads=4,
    )
    expected = [
        "the text tower was trained with gelu: got model.activation quick_gelu",
        "the vision tower has 4 heads: got model.vision.heads 2",
    ]
    for path in (folder, folder / "model.safetensors"):
        assert problems_of(path, like_of()) == expected
    # Listed with all that is wrong with the tensors.
    together = problems_of(folder, like_of(model__text__layers=1))
    assert together[-2:] == expected
    assert len(together) == 2 + 16 and together[0].startswith("unexpected text_model.encoder.layer")
    ours, report = load_weights(folder, like_of(), "quick_gelu", strict=False)
    assert report.problems == expected and sorted(ours) == sorted(like_of())


def test_a_config_that_is_no_json_is_named(tmp_path):
    folder = saved(tmp_path)
    (folder / "config.json").write_text("{")
    assert "config.json: no JSON" in problems_of(folder, like_of())[0]


@pytest.mark.parametrize("make", [clips.openai, clips.long_clip, clips.smartclip])
def test_weights_of_openais_code_were_trained_with_quick_gelu(tmp_path, make):
    torch.save(make(clips.reference().state_dict()), tmp_path / "clip.pt")
    ours, report = load_weights(tmp_path / "clip.pt", like_of(), "quick_gelu")
    assert sorted(ours) == sorted(like_of()) and report.problems == []
    assert problems_of(tmp_path / "clip.pt", like_of(), "gelu") == [
        "the text tower was trained with quick_gelu: got model.activation gelu",
        "the vision tower was trained with quick_gelu: got model.activation gelu",
    ]


def test_smartclips_mask_network_is_refused_with_a_bias(tmp_path):
    torch.save(clips.smartclip(clips.reference().state_dict()), tmp_path / "clip.pt")
    like = clips.shapes(clips.config(model__embed_dim=tiny.W))
    problems = problems_of(tmp_path / "clip.pt", like, init_bias=2.0)
    assert any("init_bias 2.0" in problem for problem in problems)


def test_heads_of_openais_code_have_64_dimensions(tmp_path):
    tensors = clips.openai(clips.reference().state_dict())
    torch.save(tensors, tmp_path / "clip.pt")
    wide = {"model__text__width": 128}
    right = problems_of(tmp_path / "clip.pt", like_of(**wide))  # two heads: only shapes are wrong
    wrong = problems_of(tmp_path / "clip.pt", like_of(**wide, model__text__heads=4))
    assert set(wrong) - set(right) == {"the text tower has 2 heads: got model.text.heads 4"}


def test_open_clip_has_its_activation_and_heads_in_a_config(tmp_path):
    torch.save({"state_dict": clips.open_clip(clips.reference().state_dict())}, tmp_path / "a.pt")
    for activation in ("gelu", "quick_gelu"):
        _, report = load_weights(tmp_path / "a.pt", like_of(), activation)
        assert report.problems == []
        assert f"taken as {activation}, as the model has it" in report.changes[-1]
    towers = {"text_cfg": {"heads": 2}, "vision_cfg": {"width": 12, "head_width": 6}}
    for quick, activation in ((True, "gelu"), (False, "quick_gelu")):
        config = {"model_cfg": towers | ({"quick_gelu": True} if quick else {})}
        (tmp_path / "open_clip_config.json").write_text(json.dumps(config))
        trained = "quick_gelu" if quick else "gelu"
        _, report = load_weights(tmp_path / "a.pt", like_of(), trained)
        assert report.changes == []
        assert problems_of(tmp_path / "a.pt", like_of(), activation) == [
            f"the {tower} tower was trained with {trained}: got model.activation {activation}"
            for tower in ("text", "vision")
        ]
    config = {"model_cfg": {"quick_gelu": True}}  # of a model with the defaults
    (tmp_path / "open_clip_config.json").write_text(json.dumps(config))
    assert problems_of(tmp_path / "a.pt", like_of()) == [
        "the text tower has 8 heads: got model.text.heads 2",
        "the vision tower has 12 heads: got model.vision.heads 2",
    ]


# -- exports of our own


def exported(folder, objective="full", **changes):
    """An export for PyTorch in a folder; the arrays in it by our names."""
    cfg = tiny.config(objective, **changes).model
    rng = np.random.default_rng(0)
    shapes = clips.shapes(cfg).items()
    ours = {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes}
    write_safetensors(to_torch(ours), folder / "model.safetensors", {})
    config = {"format": "mova_jax", "format_version": 2, "model": dataclasses.asdict(cfg)}
    (folder / "config.json").write_text(json.dumps(config))
    return ours


def tiny_like(objective="full", **changes):
    return clips.shapes(tiny.config(objective, **changes).model)


def test_an_export_comes_back_bit_for_bit(tmp_path):
    given = exported(tmp_path, "paper", model__text__frozen_positions=2)
    like = tiny_like("paper", model__text__frozen_positions=2)
    ours, report = load_weights(tmp_path, like, "gelu")
    assert report.layout == "mova_torch"
    assert report.initial == report.problems == report.changes == []
    assert sorted(ours) == sorted(given)
    for name, value in given.items():
        np.testing.assert_array_equal(ours[name], value, err_msg=name)


def test_modules_that_an_export_lacks_keep_their_initial_values(tmp_path):
    given = exported(tmp_path, "global_only")
    ours, report = load_weights(tmp_path, tiny_like(), "gelu")
    assert sorted(ours) == sorted(given) and report.problems == []
    assert {name.split("/")[0] for name in report.initial} == {"tmn", "cmn", "modular_logit_scale"}


def test_an_export_of_another_model_is_refused_with_all_differences(tmp_path):
    given = exported(tmp_path)
    # Exports of format 1 have a number of heads for each mask network.
    config = json.loads((tmp_path / "config.json").read_text())
    config["model"]["tmn"]["heads"], config["model"]["cmn"]["heads"] = 4, 2
    (tmp_path / "config.json").write_text(json.dumps(config))
    heads = {"model__vision__heads": 1}
    like = tiny_like("no_tv", model__text__context=4, data__token_buckets=(4,), **heads)
    del like["tmn/out/bias"]
    like["cmn/more/bias"] = (3,)
    problems = problems_of(tmp_path, like, "quick_gelu")
    assert sorted(problem.split(": ")[0] for problem in problems[:3]) == [
        "cmn.more.bias",
        "text.positions",
        "tmn.out.bias",
    ]
    assert problems[3:] == [
        "the text tower was trained with gelu: got model.activation quick_gelu",
        "the vision tower was trained with gelu: got model.activation quick_gelu",
        "the vision tower has 2 heads: got model.vision.heads 1",
        "the tmn has 4 heads: got model.text.heads 2",
    ]
    ours, report = load_weights(tmp_path, like, "quick_gelu", strict=False)
    assert report.problems == problems and report.initial == ["cmn/more/bias", "text/positions"]
    assert set(ours) == set(given) - {"tmn/out/bias", "text/positions"}
