"""How batches, parameters and activations are sharded over eight simulated devices."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from configs.base import get_config
from mova_jax.config import from_config_dict
from mova_jax.config.presets import MODELS
from mova_jax.models import layers
from mova_jax.models.masks import TMN_LAYOUTS
from mova_jax.models.vision import VisionTower
from mova_jax.parallel import sharding
from mova_jax.parallel.mesh import make_mesh
from mova_jax.training.state import make_train_spec
from mova_jax.typing import HostFrames
from mova_jax.utils.trees import parameter_names
from tests import tiny
from tests.parallel.devices import fake_devices

# -- the batch


def test_all_batch_sizes_of_training_must_divide_over_the_devices():
    mesh = make_mesh(data=4)
    sharding.check_batches(mesh, tiny.config(train__batch_size=8, eval__batch_size=3))
    for name, wrong in (
        ("batch_size", {"train__batch_size": 6}),
        ("microbatch", {"train__batch_size": 12, "train__microbatch": 6}),
    ):
        with pytest.raises(ValueError, match=rf"train\.{name} is 6 over 4 devices.*multiple of 4"):
            sharding.check_batches(mesh, tiny.config(**wrong))


def test_put_batch_splits_rows_in_order_and_keeps_values_and_types():
    mesh = make_mesh(data=2, fsdp=2, tensor=2)
    arrays = tiny.batch_arrays(8)
    batch = sharding.put_batch(mesh, arrays)
    for name, array in arrays.items():
        got = getattr(batch, name)
        np.testing.assert_array_equal(got, array)
        assert got.dtype == array.dtype
        assert got.sharding.is_equivalent_to(sharding.batch_sharding(mesh), got.ndim)
        shards = sorted(got.addressable_shards, key=lambda shard: shard.device.id)
        for i, shard in enumerate(shards):  # the two devices of a tensor axis have the same rows
            np.testing.assert_array_equal(shard.data, array[2 * (i // 2) : 2 * (i // 2) + 2])


@pytest.mark.parametrize("microbatch", [0, 4])
def test_parts_are_split_like_their_captions_and_need_not_be_there(microbatch):
    mesh, arrays = make_mesh(data=4), tiny.batch_arrays(8)
    assert sharding.put_batch(mesh, arrays, microbatch).part_tokens is None
    arrays["part_tokens"] = np.arange(8 * 2 * 3, dtype=np.int32).reshape(8, 2, 3)
    arrays["part_token_mask"] = arrays["part_tokens"] % 3 < 2
    batch = sharding.put_batch(mesh, arrays, microbatch)
    for name in ("part_tokens", "part_token_mask"):
        got = getattr(batch, name)
        np.testing.assert_array_equal(got, arrays[name])
        assert got.sharding.is_equivalent_to(sharding.batch_sharding(mesh), got.ndim)
        assert [shard.data.shape for shard in got.addressable_shards] == [(2, 2, 3)] * 4


@pytest.mark.parametrize("tensor", [1, 2])
def test_frames_of_microbatches_are_offloaded_to_the_host(tensor):
    mesh, arrays = make_mesh(data=2, fsdp=2, tensor=tensor), tiny.batch_arrays(24)
    batch = sharding.put_batch(mesh, arrays, microbatch=8)
    assert batch.frames.microbatches == 3
    assert batch.frames.pixels.sharding.memory_kind == "pinned_host"
    for shard in batch.frames.pixels.addressable_shards:  # two rows of each microbatch
        first = 6 * (shard.device.id // tensor)
        mine = arrays["frames"][first : first + 6].reshape(2, 3, *shard.data.shape[2:])
        np.testing.assert_array_equal(shard.data, mine.swapaxes(0, 1))
    for number in range(3):
        part = jax.jit(lambda frames, i: frames.microbatch(i))(batch.frames, number)
        np.testing.assert_array_equal(part, arrays["frames"][number::3])
        assert part.sharding.memory_kind == "device" and part.dtype == np.uint8
    np.testing.assert_array_equal(batch.tokens, arrays["tokens"])


@pytest.mark.parametrize(
    ("size", "numbers"),
    [(224, (147, 8, 128)), (336, (1323, 2, 128)), (64, (12, 8, 128)), (10, (75, 1, 4))],
)
def test_offloaded_frames_have_the_tiles_of_a_tpu(size, numbers):
    assert HostFrames.shape((12, 5, size, size, 3), 4) == (4, 3, 5, *numbers)


def test_example_mask_needs_a_frame_and_a_token():
    arrays = tiny.batch_arrays(4)
    arrays["frame_mask"][1] = False
    arrays["token_mask"][2] = False
    batch = sharding.put_batch(make_mesh(data=1), arrays)
    assert batch.example_mask.tolist() == [True, False, False, True]


@pytest.mark.parametrize(
    ("shape", "process", "share"),
    [
        ((4, 2, 1), 0, (0, 4)),
        ((4, 2, 1), 3, (3, 4)),
        ((1, 4, 2), 2, (2, 4)),
        ((1, 2, 4), 3, (1, 2)),  # two processes read the same rows
        ((1, 1, 8), 2, (0, 1)),
    ],
)
def test_every_process_reads_the_rows_of_its_devices(shape, process, share, monkeypatch):
    data, fsdp, tensor = shape
    mesh = make_mesh(data=data, fsdp=fsdp, tensor=tensor, devices=fake_devices(4, 2))
    monkeypatch.setattr(jax, "process_index", lambda: process)
    assert sharding.process_share(mesh) == share


def test_processes_whose_rows_overlap_without_being_equal_are_refused():
    mesh = make_mesh(data=4, tensor=3, devices=fake_devices(6, 2))
    with pytest.raises(ValueError, match=r"choose a config\.mesh\.tensor"):
        sharding.process_share(mesh)


# -- parameters


def train_spec(size, tmn, mesh, **changes):
    made = get_config(f"model={size}")
    made.update_from_flattened_dict(
        {
            "model.text.vocab_size": 49408,
            "model.text.frozen_positions": 20,
            "model.global_head": "seq_transformer",
            "model.tmn.layout": tmn,
            "model.cmn.sees_frame": True,
            **changes,
        }
    )
    return make_train_spec(from_config_dict(made), mesh)


@pytest.mark.parametrize(
    ("size", "tmn"), [(size, "cross") for size in MODELS] + [("b16", tmn) for tmn in TMN_LAYOUTS]
)
def test_every_parameter_has_one_rule_and_every_large_one_is_sharded(size, tmn):
    mesh = make_mesh(data=1, fsdp=4, tensor=2)
    state = train_spec(size, tmn, mesh).shapes
    shardings = parameter_names(sharding.state_sharding(mesh, state.params))
    for name, leaf in parameter_names(state.params).items():
        rules = [
            axes
            for pattern, axes in sharding.PARAMETERS
            if re.fullmatch(rf"(.*/)?({pattern})", name)
        ]
        assert len(rules) == 1, name
        if not name.endswith(("kernel", "token_embedding")):
            continue
        ways = 8 if {"heads", "mlp"} & set(rules[0]) else 4
        if size == "tiny" and "heads" in rules[0] and not name.startswith("head/"):
            ways = 4  # three heads do not divide over two devices
        part = shardings[name].shard_shape(leaf.shape)
        assert np.prod(part) * ways == leaf.size, name
        if "/blocks/blocks/" in name:
            assert part[0] == leaf.shape[0], name
    whole = sharding.indivisible_dimensions(mesh, parameter_names(state.params))
    assert bool(whole) == (size == "tiny") and all(
        "heads 3 over 2 devices" in line for line in whole
    )


def test_the_state_is_sharded_as_its_parameters_and_shrinks_with_the_devices():
    one, eight = (make_mesh(data=1, fsdp=n) for n in (1, 8))
    state = train_spec("b16", "cross", eight, **{"optim.ema": 0.9}).shapes
    sizes = []
    for mesh in (one, eight):
        placed = sharding.state_sharding(mesh, state)
        parts = jax.tree.map(lambda x, s: np.prod(s.shard_shape(x.shape)), state, placed)
        sizes.append(sum(jax.tree.leaves(parts)))
    assert sizes[1] == pytest.approx(sizes[0] / 8, rel=0.03)
    named = parameter_names(sharding.state_sharding(eight, state.params))
    moments = jax.tree_util.tree_leaves_with_path(sharding.state_sharding(eight, state.opt_state))
    for path, placed in moments:
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        found = [value for ours, value in named.items() if name.endswith(f"/{ours}")]
        assert (found == [placed]) if found else placed.is_fully_replicated, name


def test_a_parameter_without_a_rule_is_refused():
    tree = {"vision": {"gate": jax.ShapeDtypeStruct((8, 8), np.float32)}}
    with pytest.raises(ValueError, match=r"how 'vision/gate' is sharded: add one to PARAMETERS"):
        sharding.state_sharding(make_mesh(), tree)


# -- activations


def tower_program(data, fsdp, tensor):
    """The compiled gradient of a tower of four layers over 48 frames."""
    mesh = make_mesh(data=data, fsdp=fsdp, tensor=tensor)
    sizes = {"width": WIDTH, "heads": HEADS, "layers": 4, "image_size": 12}
    cfg = tiny.config(**{f"model__vision__{name}": n for name, n in sizes.items()}).model.vision
    made = nnx.eval_shape(
        lambda: VisionTower(cfg, 8, "gelu", rngs=nnx.Rngs(0), dtype=jnp.float32, remat="none")
    )
    graphdef, state = nnx.split(made)
    tree = {"vision": nnx.to_pure_dict(state)}
    placed = sharding.state_sharding(mesh, tree)

    def loss(tree, frames):
        with sharding.activation_sharding(mesh):
            return jnp.square(nnx.merge(graphdef, tree["vision"])(frames)).sum()

    step = jax.jit(
        jax.grad(loss),
        in_shardings=(placed, sharding.batch_sharding(mesh)),
        out_shardings=placed,
    )
    frames = jax.ShapeDtypeStruct((FRAMES, 12, 12, 3), jnp.uint8)
    return step.lower(tree, frames).compile(tiny.QUICK)


WIDTH, HEADS, FRAMES = 64, 4, 48
LAYER = {  # shapes of a layer's weights
    (WIDTH, 3, HEADS, WIDTH // HEADS),
    (HEADS, WIDTH // HEADS, WIDTH),
    (WIDTH, 4 * WIDTH),
    (4 * WIDTH, WIDTH),
}


def exchanges(program, kind):
    """Result shapes of the collectives of a kind inside the loops over layers."""
    found = []
    for line in program.as_text().splitlines():
        made = re.match(rf"\s*(?:ROOT )?%?[\w.\-]+ = (.*?) {kind}(-start)?\(", line)
        if made and "/while/body" in line:
            found += [
                tuple(map(int, x.split(","))) for x in re.findall(r"f32\[([\d,]+)\]", made[1])
            ]
    return found


def test_under_fsdp_a_layer_gathers_its_own_weights_and_no_activations():
    program = tower_program(1, 8, 1)
    assert sorted(set(exchanges(program, "all-gather"))) == sorted(LAYER)
    assert not exchanges(program, "all-to-all")
    assert not exchanges(program, "collective-permute")
    # Devices sum gradients of weights, and no array with an axis of frames.
    summed = exchanges(program, "all-reduce")
    assert summed and not [shape for shape in summed if shape[0] in (FRAMES, FRAMES // 8)]


def test_under_tensor_a_layer_sums_two_activations_of_its_own_rows():
    program = tower_program(2, 2, 2)
    rows = [s for s in exchanges(program, "all-reduce") if s[-1] == WIDTH and len(s) == 3]
    rows = [shape for shape in rows if shape[0] == FRAMES // 4]
    assert len(rows) == 4  # after attention and MLP, forward and backward
    assert not [s for s in exchanges(program, "all-gather") if FRAMES in s]


def test_temporaries_fall_as_devices_are_added():
    bytes_of = [tower_program(1, n, 1).memory_analysis().temp_size_in_bytes for n in (1, 2, 8)]
    assert bytes_of[0] > 1.6 * bytes_of[1] > 1.6 * 2 * bytes_of[2]


def test_activations_are_sharded_by_name_where_their_size_divides():
    mesh = make_mesh(data=2, fsdp=2, tensor=2)

    def place(x):
        with sharding.activation_sharding(mesh):
            return layers.with_logical_constraint(x, "batch", None, "heads")

    placed = jax.jit(place)
    assert placed(np.ones((4, 3, 2))).sharding.shard_shape((4, 3, 2)) == (1, 3, 1)
    assert placed(np.ones((2, 3, 3))).sharding.is_fully_replicated
    # Without a mesh, and for one row under vmap, names have no effect.
    x = np.ones((4, 3, 2))
    assert layers.with_logical_constraint(x, "batch", None, "heads") is x
    assert jax.jit(jax.vmap(place))(x).shape == x.shape
