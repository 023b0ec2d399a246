"""Weights for a model: read from disk, compared with its activation and heads."""

import dataclasses
import json

import numpy as np
import pytest
import torch

from mova_jax.config.schema import Masks, Model, Vision
from mova_jax.data.tokenizer import train_tokenizer
from mova_jax.weights.files import WeightsError, write_safetensors
from mova_jax.weights.layouts import to_flax
from mova_jax.weights.load import load_weights
from mova_jax.weights.torch_names import to_torch
from tests import tiny
from tests.weights import clips

PLAIN = {"objective": "global_only"}


def like_of(**changes):
    return clips.shapes(clips.config(**(PLAIN | changes)))


def model_of(activation="quick_gelu", **changes):
    """`config.model`, as far as loading reads it."""
    masks, vision = Masks(init_bias=changes.pop("init_bias", 0.0)), Vision(**changes)
    return Model(activation=activation, masks=masks, vision=vision)


def problems_of(path, like, activation="quick_gelu", **changes):
    with pytest.raises(WeightsError) as error:
        load_weights(path, like, model_of(activation, **changes))
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
        ours, report = load_weights(path, like_of(), model_of("quick_gelu"))
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
    ours, report = load_weights(folder, like_of(), model_of("quick_gelu"), strict=False)
    assert report.problems == expected and sorted(ours) == sorted(like_of())


def test_a_config_that_is_no_json_is_named(tmp_path):
    folder = saved(tmp_path)
    (folder / "config.json").write_text("{")
    assert "config.json: no JSON" in problems_of(folder, like_of())[0]


@pytest.mark.parametrize("make", [clips.openai, clips.long_clip, clips.smartclip])
def test_weights_of_openais_code_were_trained_with_quick_gelu(tmp_path, make):
    torch.save(make(clips.reference().state_dict()), tmp_path / "clip.pt")
    ours, report = load_weights(tmp_path / "clip.pt", like_of(), model_of("quick_gelu"))
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
        _, report = load_weights(tmp_path / "a.pt", like_of(), model_of(activation))
        assert report.problems == []
        assert f"taken as {activation}, as the model has it" in report.changes[-1]
    towers = {"text_cfg": {"heads": 2}, "vision_cfg": {"width": 12, "head_width": 6}}
    for quick, activation in ((True, "gelu"), (False, "quick_gelu")):
        config = {"model_cfg": towers | ({"quick_gelu": True} if quick else {})}
        (tmp_path / "open_clip_config.json").write_text(json.dumps(config))
        trained = "quick_gelu" if quick else "gelu"
        _, report = load_weights(tmp_path / "a.pt", like_of(), model_of(trained))
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


# -- configurations beside the weights


HALF = {"mean": (0.5, 0.5, 0.5), "std": (0.25, 0.5, 1.0)}
IMAGE = {"image_mean": [0.5, 0.5, 0.5], "image_std": [0.25, 0.5, 1.0]}
PLAIN_PIXELS = {"mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0)}


@pytest.mark.parametrize(
    ("files", "pixels"),
    [
        ({"preprocessor_config.json": IMAGE}, HALF),
        ({"preprocessor_config.json": IMAGE | {"rescale_factor": 0.00392156862745098}}, HALF),
        (
            {"processor_config.json": {"image_processor": IMAGE}, "preprocessor_config.json": {}},
            HALF,
        ),
        ({"processor_config.json": {"a": 1}, "preprocessor_config.json": IMAGE}, HALF),
        ({"preprocessor_config.json": {"do_normalize": False, **IMAGE}}, PLAIN_PIXELS),
        # Bytes / 127.5 - 1, which is (bytes / 255 - 0.5) / 0.5.
        (
            {
                "preprocessor_config.json": {
                    "rescale_factor": 1 / 127.5,
                    "image_mean": [1, 1, 1],
                    "image_std": [1, 1, 1],
                }
            },
            {"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)},
        ),
    ],
)
def test_the_normalisation_of_pixels_has_to_agree(tmp_path, files, pixels):
    folder = saved(tmp_path)
    for name, content in files.items():
        (folder / name).write_text(json.dumps(content))
    _, report = load_weights(folder, like_of(), model_of(**pixels))
    assert report.problems == []
    [mean, std] = problems_of(folder, like_of())
    assert mean == (
        f"the vision tower was trained on pixels of mean {list(pixels['mean'])}: got "
        f"model.vision.mean {list(Vision().mean)}"
    )
    assert f"of std {list(pixels['std'])}: got model.vision.std" in std


def test_the_normalisation_of_open_clip_openai_and_exports(tmp_path):
    torch.save(clips.open_clip(clips.reference().state_dict()), tmp_path / "a.pt")
    config = {"preprocess_cfg": {**HALF, "interpolation": "bicubic"}}
    (tmp_path / "open_clip_config.json").write_text(json.dumps(config))
    _, report = load_weights(tmp_path / "a.pt", like_of(), model_of(**HALF))
    assert report.problems == [] and len(problems_of(tmp_path / "a.pt", like_of())) == 2
    torch.save(clips.openai(clips.reference().state_dict()), tmp_path / "b.pt")
    assert len(problems_of(tmp_path / "b.pt", like_of(), **HALF)) == 2
    exported(tmp_path, **{f"model__vision__{name}": three for name, three in HALF.items()})
    _, report = load_weights(tmp_path, tiny_like(), model_of("gelu", **HALF))
    assert report.problems == [] and len(problems_of(tmp_path, tiny_like(), "gelu")) == 2


@pytest.mark.parametrize("wrong", [{"image_mean": 0.5}, {"image_std": [0.5, 0.5, 0.0]}])
def test_a_normalisation_that_is_none_is_named(tmp_path, wrong):
    (saved(tmp_path) / "preprocessor_config.json").write_text(json.dumps(wrong))
    [problem] = problems_of(tmp_path, like_of())
    assert str(wrong) in problem and "for its pictures" in problem


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"model_type": "siglip"}, "config.json: got model_type 'siglip', expected 'clip'"),
        ({"quantization_config": {"quant_method": "fbgemm_fp8"}}, "quantized by fbgemm_fp8"),
        ({"transformers_weights": "other.safetensors"}, "its weights are in other.safetensors"),
        ({"text_config": {"layer_norm_eps": 1e-6}}, "layer_norm_eps 1e-06 of the text tower"),
        ({"vision_config": {"layer_norm_eps": 1e-6}}, "layer_norm_eps 1e-06 of the vision tower"),
        ({"vision_config": {"hidden_act": "gelu_new"}}, "vision tower was trained with gelu_new"),
        # Of two configurations of a tower, this one counts, with the defaults of its class.
        ({"text_config_dict": {"hidden_act": "gelu"}}, "the text tower was trained with gelu"),
        ({"vision_config_dict": {}}, "the vision tower has 12 heads"),
    ],
)
def test_what_a_config_asks_for_and_is_not_done_is_refused(tmp_path, change, expected):
    folder = saved(tmp_path)
    config = json.loads((folder / "config.json").read_text())
    for name, value in change.items():
        known = config.get(name)
        config[name] = known | value if isinstance(known, dict) else value
    (folder / "config.json").write_text(json.dumps(config))
    problems = problems_of(folder, like_of())
    assert expected in problems[0] and len(problems) <= 2


def test_what_lies_beside_weights_and_changes_them_is_refused(tmp_path):
    folder = saved(tmp_path)
    (folder / "adapter_config.json").write_text("{}")
    assert "merge_and_unload" in problems_of(folder, like_of())[0]
    (folder / "adapter_config.json").unlink()
    train_tokenizer(["a b"], 514, folder)  # which ends a text by 513
    [problem] = problems_of(folder, like_of())
    assert problem.startswith(f"config.json: got eos_token_id {clips.END} of the text tower")
    assert "expected 513" in problem
    saved(folder, text_config__eos_token_id=2, text_config__attention_dropout=0.1)
    _, report = load_weights(folder, like_of(), model_of())
    assert report.changes == ["attention_dropout 0.1 of the text tower is not used in training"]


@pytest.mark.parametrize(
    ("tower", "key", "value"),
    [
        ("text", "pool_type", "last"),
        ("text", "no_causal_mask", True),
        ("text", "norm_kwargs", {"eps": 1e-6}),
        ("text", "tokenizer_kwargs", {"clean": "canonicalize"}),
        ("vision", "pool_type", "avg"),
        ("vision", "final_ln_after_pool", True),
    ],
)
def test_other_towers_of_open_clip_are_refused(tmp_path, tower, key, value):
    torch.save(clips.open_clip(clips.reference().state_dict()), tmp_path / "a.pt")
    towers = {"text_cfg": {"heads": 2}, "vision_cfg": {"width": 12, "head_width": 6}}
    towers[f"{tower}_cfg"][key] = value
    config = {"model_cfg": towers | {"quick_gelu": True}}
    (tmp_path / "open_clip_config.json").write_text(json.dumps(config))
    [problem] = problems_of(tmp_path / "a.pt", like_of())
    assert problem.startswith(f"open_clip_config.json: got {tower}_cfg.{key} {value!r}, expected")


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
    ours, report = load_weights(tmp_path, like, model_of("gelu"))
    assert report.layout == "mova_torch"
    assert report.initial == report.problems == report.changes == []
    assert sorted(ours) == sorted(given)
    for name, value in given.items():
        np.testing.assert_array_equal(ours[name], value, err_msg=name)


def test_modules_that_an_export_lacks_keep_their_initial_values(tmp_path):
    given = exported(tmp_path, "global_only")
    ours, report = load_weights(tmp_path, tiny_like(), model_of("gelu"))
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
    ours, report = load_weights(tmp_path, like, model_of("quick_gelu"), strict=False)
    assert report.problems == problems and report.initial == ["cmn/more/bias", "text/positions"]
    assert set(ours) == set(given) - {"tmn/out/bias", "text/positions"}
