"""Layouts of CLIP: tensors of every layout give the embeddings of transformers."""

import functools

import numpy as np
import pytest
import torch

from mova_jax.weights.files import WeightsError
from mova_jax.weights.layouts import detect_layout, to_flax, to_huggingface
from mova_jax.weights.positions import resize_image_positions, stretch_positions
from tests import tiny
from tests.weights import clips

LAYOUTS = {
    "huggingface": (lambda w: w, "huggingface"),
    "openai": (clips.openai, "openai"),
    "open_clip": (clips.open_clip, "open_clip"),
    "open_clip_custom": (clips.open_clip_custom, "open_clip"),
    "open_clip_linear": (functools.partial(clips.open_clip_custom, linear=True), "open_clip"),
    "long_clip": (clips.long_clip, "long_clip"),
    "smartclip": (clips.smartclip, "smartclip"),
}
outputs = tiny.jit(clips.outputs)


def tensors_of(layout="huggingface", **changes):
    """Arrays of a layout, and the layout's name for `to_flax`."""
    make, name = LAYOUTS[layout]
    return clips.arrays(make(clips.reference(**changes).state_dict())), name


def converted(layout="huggingface", cfg=None, **options):
    """`to_flax` for a model without masks, whose parameters a CLIP has all of."""
    cfg = clips.config(objective="global_only") if cfg is None else cfg
    return to_flax(*tensors_of(layout), clips.shapes(cfg), **options)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_gives_the_embeddings_and_logits_of_transformers(layout):
    cfg = clips.config(objective="global_only")
    tensors, name = tensors_of(layout)
    assert detect_layout(tensors) == name
    ours, report = to_flax(tensors, name, clips.shapes(cfg))
    assert sorted(ours) == sorted(clips.shapes(cfg))
    assert report.layout == name and report.initial == report.problems == []
    inputs = clips.inputs()
    clips.assert_same(
        outputs(clips.model(cfg, ours), *inputs), clips.theirs(clips.reference(), *inputs)
    )


def test_the_exact_gelu_too():
    cfg = clips.config(objective="global_only", model__activation="gelu")
    ours, _ = to_flax(*tensors_of(activation="gelu"), clips.shapes(cfg))
    inputs = clips.inputs()
    expected = clips.theirs(clips.reference("gelu"), *inputs)
    clips.assert_same(outputs(clips.model(cfg, ours), *inputs), expected)
    # The tolerance tells the two activations apart.
    with pytest.raises(AssertionError, match="differs by"):
        clips.assert_same(clips.theirs(clips.reference(), *inputs), expected, 1e-3)


def test_modules_that_clip_lacks_keep_their_initial_values():
    like = clips.shapes(clips.config())
    ours, report = to_flax(*tensors_of(), like)
    missing = {name for name in like if name.startswith(("tmn/", "cmn/"))} | {"modular_logit_scale"}
    assert set(report.initial) == missing == set(like) - set(ours)
    assert "keep their initial values: cmn (" in "\n".join(report.lines())


# -- positions


def test_text_positions_are_stretched_to_the_context():
    tensors, layout = tensors_of(context=21)
    ours, report = to_flax(tensors, layout, clips.shapes(clips.config()))
    table = tensors["text_model.embeddings.position_embedding.weight"]
    assert len(table) == 21
    np.testing.assert_array_equal(ours["text/positions"], stretch_positions(table, clips.CONTEXT))
    assert report.changes == ["text positions stretched from 21 to 24 (Long-CLIP's rule)"]


def test_frozen_positions_are_a_parameter_of_their_own():
    whole, _ = converted()
    like = clips.shapes(clips.config(objective="global_only", model__text__frozen_positions=7))
    split, report = to_flax(*tensors_of(), like)
    assert split["text/positions_frozen"].shape == (7, tiny.W) and report.initial == []
    parts = [split["text/positions_frozen"], split["text/positions"]]
    np.testing.assert_array_equal(np.concatenate(parts), whole["text/positions"])


def test_long_clip_uses_the_first_rows_of_one_table_and_the_last_of_the_other():
    tensors, layout = tensors_of("long_clip")
    like = clips.shapes(clips.config(model__text__frozen_positions=20))
    ours, report = to_flax(tensors, layout, like)
    np.testing.assert_array_equal(
        ours["text/positions_frozen"], tensors["positional_embedding"][:20]
    )
    np.testing.assert_array_equal(ours["text/positions"], tensors["positional_embedding_res"][20:])
    assert report.changes == []
    _, report = to_flax(tensors, layout, clips.shapes(clips.config()))
    assert "model.text.frozen_positions=20 does the same" in report.changes[0]


def test_a_context_that_the_rule_does_not_give_is_one_of_the_problems():
    tensors, layout = tensors_of(context=22)
    del tensors["logit_scale"]
    with pytest.raises(WeightsError) as error:
        to_flax(tensors, layout, clips.shapes(clips.config()))
    assert error.value.problems == [
        "missing logit_scale [], for logit_scale",
        "the text has 22 positions in the weights and 24 in the model: expected "
        "model.text.context to be 22, or 28, to which they stretch",
    ]


def test_image_positions_are_resized_to_the_grid_of_the_frames():
    tensors, layout = tensors_of()
    like = clips.shapes(clips.config(model__vision__image_size=12))
    ours, report = to_flax(tensors, layout, like)
    table = tensors["vision_model.embeddings.position_embedding.weight"]
    np.testing.assert_array_equal(ours["vision/positions"], resize_image_positions(table, 3))
    assert report.changes == ["image positions resized from 2 x 2 to 3 x 3 patches (bicubic)"]


# -- problems


def broken():
    """OpenAI's layout with one problem of each kind, and the lines of the error."""
    tensors, layout = tensors_of("openai")
    del tensors["visual.transformer.resblocks.1.mlp.c_fc.bias"]
    del tensors["positional_embedding"]
    tensors["visual.conv1.weight"] = tensors["visual.conv1.weight"][:, :, :2, :2]
    tensors["ln_final.bias"] = tensors["ln_final.bias"].astype(np.int8)
    tensors["transformer.resblocks.2.ln_1.bias"] = tensors["transformer.resblocks.0.ln_1.bias"]
    tensors["logit_bias"] = np.zeros((), np.float32)
    expected = [
        "visual.conv1.weight: got [12, 3, 2, 2] of float32, expected [12, 3, 4, 4] of floats for "
        "vision/patch_embedding/kernel",
        "ln_final.bias: got [16] of int8, expected [16] of floats for text/norm_final/bias",
        "missing visual.transformer.resblocks.1.mlp.c_fc.bias [48], for "
        "vision/blocks/blocks/mlp/up/bias",
        "missing positional_embedding [any, 16], for text/positions",
        "unexpected logit_bias []",
        "unexpected transformer.resblocks.2.ln_1.bias [16]",
    ]
    return tensors, layout, expected


def test_one_error_lists_all_problems():
    tensors, layout, expected = broken()
    with pytest.raises(WeightsError) as error:
        to_flax(tensors, layout, clips.shapes(clips.config(objective="global_only")))
    assert error.value.problems == expected
    assert str(error.value).startswith("the weights have 6 problem(s):\n  - visual.conv1.weight")


def test_without_strict_the_report_lists_the_problems_and_the_rest_is_converted():
    tensors, layout, expected = broken()
    like = clips.shapes(clips.config(objective="global_only"))
    ours, report = to_flax(tensors, layout, like, strict=False)
    assert report.problems == expected
    assert report.initial == [
        "text/norm_final/bias",
        "text/positions",
        "vision/blocks/blocks/mlp/up/bias",
        "vision/patch_embedding/kernel",
    ]
    whole, _ = converted("openai")
    assert set(ours) == set(whole) - set(report.initial)
    for name, value in ours.items():
        np.testing.assert_array_equal(value, whole[name])
    assert f"problem: {expected[0]}" in report.lines()


def test_harmless_buffers_are_ignored():
    tensors, layout = tensors_of()
    for tower in ("text", "vision"):  # transformers kept them in its files until version 4.31
        tensors[f"{tower}_model.embeddings.position_ids"] = np.arange(5)[None]
    _, report = to_flax(tensors, layout, clips.shapes(clips.config()))
    assert report.problems == [] and len(report.ignored) == 2
    _, report = converted("openai")
    assert report.ignored == ["context_length", "input_resolution", "vocab_size"]


def test_unknown_layouts_are_refused_with_some_of_their_names():
    with pytest.raises(WeightsError, match=r"tensors such as a\.b, c; expected one of.*openai"):
        detect_layout(["c", "a.b"])
    with pytest.raises(WeightsError, match="got a CLIP with a ResNet"):
        detect_layout(["visual.conv1.weight", "visual.attnpool.positional_embedding"])
    assert detect_layout(["vision.blocks.0.attention.qkv.weight"]) == "mova_torch"
    with pytest.raises(WeightsError, match="got the layout 'other'"):
        to_flax({}, "other", {})


# -- to transformers


@pytest.mark.parametrize("frozen", [0, 7])
def test_to_transformers_and_back_is_bit_for_bit(frozen):
    cfg = clips.config(model__text__frozen_positions=frozen)
    given, layout = tensors_of()
    ours, _ = to_flax(given, layout, clips.shapes(cfg))
    masks = {"cmn/query/bias": np.zeros(3, np.float32)}  # towers alone go out
    back = to_huggingface(ours | masks)
    assert set(back) == set(given)
    for name, value in given.items():
        np.testing.assert_array_equal(back[name], value, err_msg=name)
        assert back[name].flags.c_contiguous and back[name].shape == value.shape
    again, _ = to_flax(back, "huggingface", clips.shapes(cfg))
    assert all(np.array_equal(again[name], value) for name, value in ours.items())
    # And it is a state dict that transformers takes.
    tensors = {name: torch.tensor(value) for name, value in back.items()}
    clips.reference().load_state_dict(tensors, strict=True)
