"""Names in PyTorch: every parameter of every model has its place, bit for bit."""

import dataclasses
import functools

import numpy as np
import pytest

from mova_jax.config.presets import OBJECTIVES
from mova_jax.export import torch_model
from mova_jax.models.build import make_model_spec
from mova_jax.utils.trees import parameter_shapes
from mova_jax.weights.files import WeightsError
from mova_jax.weights.torch_names import from_torch, to_torch
from tests import tiny

LAYOUTS = ["select", "cross", "joint", "tokens", "none"]
MODELS = [{"objective": name} for name in OBJECTIVES] + [
    {"model__tmn__layout": layout, "model__global_head": "seq_transformer"} for layout in LAYOUTS
]
MODELS += [
    {"model__text__layers": 3, "model__vision__layers": 2},
    {
        "model__embed_dim": tiny.W,
        "model__cmn__sees_frame": True,
        "model__text__frozen_positions": 2,
    },
]


def shapes_of(cfg) -> dict[str, tuple[int, ...]]:
    """Shapes of our parameters by name."""
    return parameter_shapes(make_model_spec(cfg.model).abstract_params)


def random_bits(shapes) -> dict[str, np.ndarray]:
    """Arrays of any bits at all: also NaN, infinities, -0 and denormals."""
    rng = np.random.default_rng(0)
    bits = {n: rng.integers(0, 2**32, shape, dtype=np.uint32) for n, shape in shapes.items()}
    return {name: np.asarray(x).view(np.float32) for name, x in bits.items()}


@functools.cache
def full():
    """Shapes of the default model's parameters, and PyTorch's tensors of them."""
    shapes = shapes_of(tiny.config())
    return shapes, to_torch(random_bits(shapes))


@pytest.mark.parametrize("options", MODELS, ids=lambda o: "-".join(map(str, o.values())))
def test_there_and_back_is_bit_for_bit(options):
    cfg = tiny.config(train__batch_size=8, **options)  # more than hard pairs
    shapes = shapes_of(cfg)
    params = random_bits(shapes)
    tensors = to_torch(params)
    model = torch_model.Mova({"model": dataclasses.asdict(cfg.model)})
    wanted = {name: tuple(x.shape) for name, x in model.state_dict().items()}
    assert {name: x.shape for name, x in tensors.items()} == wanted
    back, problems = from_torch(tensors, shapes)
    assert set(back) == set(params) and problems == []
    for name, array in params.items():
        assert back[name].dtype == np.float32 and back[name].shape == array.shape, name
        assert back[name].tobytes() == array.tobytes(), name


def test_every_tensor_that_does_not_fit_is_a_problem_and_the_others_are_read():
    shapes, tensors = full()
    tensors = dict(tensors)
    del tensors["text.blocks.0.mlp.up.bias"], tensors["logit_scale"]
    tensors["cmn.out.weight"] = tensors["cmn.out.weight"].T
    tensors["tmn.readers.2.out.bias"] = np.zeros(tiny.W, np.float32)
    params, problems = from_torch(tensors, shapes)
    assert sorted(problems) == [
        f"cmn.out.weight: got shape [{tiny.W}, {tiny.D}], expected [{tiny.D}, {tiny.W}]",
        "logit_scale: missing",
        "text.blocks.0.mlp.up.bias: missing",
        "tmn.readers.2.out.bias: not expected",
    ]
    absent = {"text/blocks/blocks/mlp/up/bias", "logit_scale", "cmn/out/kernel"}
    assert set(params) == set(shapes) - absent


def test_one_error_lists_all_names_without_a_place():
    names = {"vision/colour": (3,), "tmn/new/table": (2, 2), "cmn/out/kernel": (4,)}
    arrays = {name: np.zeros(shape, np.float32) for name, shape in names.items()}
    with pytest.raises(WeightsError) as error:
        to_torch(arrays)
    assert error.value.problems == from_torch({}, names)[1]
    problems = [problem.split(": ") for problem in error.value.problems]
    assert [name for name, _ in problems] == list(names)
    assert problems[2][1] == "got shape [4], expected 2 axes or more"


def test_half_precision_becomes_float32():
    shapes, tensors = full()
    halves = {name: np.float16(np.clip(x, -1, 1)) for name, x in tensors.items()}
    params, _ = from_torch(halves, shapes)
    assert all(x.dtype == np.float32 for x in params.values())
    np.testing.assert_array_equal(params["cmn/out/kernel"], np.float32(halves["cmn.out.weight"].T))
