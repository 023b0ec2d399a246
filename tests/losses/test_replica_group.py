"""The whole objective on a batch that is split over devices, against the dense one."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mova_jax.losses import context, hard_sfdm, ring
from mova_jax.losses.objective import loss_of_embeddings, objective
from mova_jax.parallel import collectives, sharding
from mova_jax.parallel import mesh as mesh_lib
from mova_jax.planning import hlo
from mova_jax.typing import TextEmbedding, VideoEmbedding
from tests import tiny
from tests.losses import dense
from tests.tiny import D, F, L, W

ROWS = 16
EMPTY = (4, 5, 11)  # 4 and 5 are all that one of eight replicas has
VALID = np.setdiff1d(np.arange(ROWS), EMPTY)
SMOOTH = {"model__masks__kind": "soft"}  # no mask that may flip by a rounding error


def embeddings(garbage=7.0):
    """Videos and captions of several lengths, some empty, and garbage in all that is padded."""
    rng = np.random.default_rng(0)
    arrays = tiny.batch_arrays(ROWS)
    frame_mask, token_mask = arrays["frame_mask"], arrays["token_mask"]
    frame_mask[list(EMPTY)] = token_mask[list(EMPTY)] = False

    def normal(mask, *shape):
        values = rng.normal(size=shape).astype(np.float32)
        mask = mask.reshape(mask.shape + (1,) * (values.ndim - mask.ndim))
        return np.where(mask, values, garbage * np.sign(values))

    rows = frame_mask.any(-1)
    pooled = normal(rows, ROWS, D)
    pooled /= np.linalg.norm(pooled, axis=-1, keepdims=True)
    video = VideoEmbedding(normal(frame_mask, ROWS, F, D), frame_mask, pooled)
    text = TextEmbedding(normal(token_mask, ROWS, L, W), token_mask, normal(rows, ROWS, D))
    return video, text


def compiled(loss_of):
    """`(model, video, text) -> ((loss, metrics), gradients)`, by parameters and embeddings."""

    def value(leaves, masks):
        model, frames, pooled, tokens, sentences = leaves
        video = VideoEmbedding(frames, masks[0], pooled)
        return loss_of(model, video, TextEmbedding(tokens, masks[1], sentences))

    program = tiny.jit(jax.value_and_grad(value, has_aux=True))

    def call(model, video, text, run=True):
        leaves = model, video.frames, video.pooled, text.tokens, text.pooled
        arguments = leaves, (video.frame_mask, text.token_mask)
        return program(*arguments) if run else program.lower(*arguments).compile().as_text()

    return call


def split(devices, name="full", **options):
    """A function of the garbage: results of the objective on so many devices."""
    mesh = mesh_lib.make_mesh(data=devices)
    cfg, model = tiny.config(name, **options).losses, tiny.model(name, **options)

    def loss_of(model, video, text):
        valid = video.frame_mask.any(-1)
        return loss_of_embeddings(model, video, text, valid, cfg, collectives.replica_group(mesh))

    program = compiled(loss_of)

    def call(garbage=7.0, run=True):
        rows = jax.device_put(embeddings(garbage), sharding.batch_sharding(mesh))
        return program(jax.device_put(model, sharding.replicated(mesh)), *rows, run=run)

    return call


def plain(name="full", **options):
    cfg, model = tiny.config(name, **options).losses, tiny.model(name, **options)
    rows = jax.tree.map(jnp.asarray, embeddings())
    return compiled(lambda *args: dense.objective(*args, cfg, VALID))(model, *rows)


def little_room(monkeypatch):
    """Not even the pairs of one of four replicas fit into a tile."""
    monkeypatch.setattr(ring, "STORED_FLOATS", 0)
    monkeypatch.setattr(ring, "TILE_FLOATS", 5 * 64 * F * D)


def assert_as_dense(devices, name="full", **options):
    """Loss, terms and all gradients; and other garbage in what is padded changes not a bit."""
    run = split(devices, name, **options)
    result = (loss, metrics), gradient = run()
    (expected, terms), reference = plain(name, **options)
    np.testing.assert_allclose(loss, expected, rtol=1e-5)
    cfg = tiny.config(name, **options).losses
    for term, value in terms.items():
        if getattr(cfg, term):
            np.testing.assert_allclose(metrics[term], value, rtol=2e-5, atol=1e-6, err_msg=term)
    tiny.assert_near(gradient, reference, 3e-5)
    for a, b in zip(jax.tree.leaves(run(-3e4)), jax.tree.leaves(result), strict=True):
        np.testing.assert_array_equal(a, b)
        assert np.isfinite(a).all()


HARD = {"losses__hard_pairs": 3, "losses__dfsm_masks": "own", "losses__pool": "softmax"}
OTHERS = {"losses__frame_negatives": "all", "losses__frame_form": "relative"}
ALIGNED = {"losses__pool": "aligned"}


@pytest.mark.parametrize(
    ("devices", "name", "options"),
    [
        (8, "full", SMOOTH),
        (8, "full", HARD | SMOOTH),
        (8, "paper", SMOOTH),
        (8, "global_only", {}),
        (2, "frame_weighting", {}),
    ],
    ids=["full", "hard-own", "paper", "global", "weighting"],
)
def test_split_batch_equals_the_dense_objective(devices, name, options):
    assert_as_dense(devices, name, **options)


def test_split_batch_in_small_tiles_equals_the_dense_objective(monkeypatch):
    little_room(monkeypatch)
    assert_as_dense(4, **ALIGNED, **OTHERS, **SMOOTH)


EXCHANGES = ("all-gather", "all-reduce", "collective-permute", "reduce-scatter", "all-to-all")


def out_of_turn(text: str) -> list[tuple[str, str]]:
    """Exchanges, or loops with some, of which the second does not wait for the first.

    Of the main computation: those of a loop are run one after the other.
    """
    module = hlo.parse(text)

    def exchanges(line) -> bool:
        inner = [name for names in line.called().values() for name in names]
        return line.opcode.startswith(EXCHANGES) or any(
            exchanges(other) for name in inner for other in module.computations.get(name, ())
        )

    (main,) = (name for name in module.computations if name.startswith("main"))
    behind: dict[str, set[str]] = {}  # exchanges that an instruction waits for
    earlier, found = [], []
    for line in module.computations[main]:
        waits = set().union(*(behind.get(name, ()) for name in line.operands))
        if exchanges(line):
            found += [(other, line.name) for other in earlier if other not in waits]
            earlier.append(line.name)
            waits.add(line.name)
        behind[line.name] = waits
    assert len(earlier) > 2
    return found


@pytest.mark.parametrize(("name", "options"), [("full", HARD | SMOOTH), ("full", SMOOTH)])
def test_exchanges_of_simulated_devices_take_turns(name, options):
    # In another order on each device they would wait for each other for ever, once in a while.
    assert out_of_turn(split(8, name, **options)(run=False)) == []


def test_recomputed_captions_of_hard_pairs_change_nothing(monkeypatch):
    options = HARD | SMOOTH
    stored = split(4, **options)()
    recomputed, calls = hard_sfdm._recomputed_scores, []
    monkeypatch.setattr(context, "STORED_NUMBERS", 0)
    monkeypatch.setattr(
        hard_sfdm, "_recomputed_scores", lambda *args: calls.append(1) or recomputed(*args)
    )
    tiny.assert_near(split(4, **options)(), stored, 1e-5)
    assert calls
    assert_as_dense(1, **options)


@pytest.mark.parametrize(("devices", "microbatch"), [(1, 8), (1, 16), (8, 8)])
def test_towers_in_microbatches_change_nothing(devices, microbatch):
    mesh = mesh_lib.make_mesh(data=devices)
    cfg, model = tiny.config("global_only").losses, tiny.model("global_only")

    def result(microbatch):
        def loss_of(model, batch):
            return objective(model, batch, cfg, collectives.replica_group(mesh))

        run = tiny.jit(jax.value_and_grad(loss_of, has_aux=True))
        batch = sharding.put_batch(mesh, tiny.batch_arrays(ROWS), microbatch)
        return run(jax.device_put(model, sharding.replicated(mesh)), batch)

    tiny.assert_near(result(microbatch), result(0), 1e-5)


# -- everything with everything


@pytest.mark.slow
@pytest.mark.parametrize("name", ["full", "paper"])
def test_eight_replicas_equal_one_with_hard_masks(name):
    tiny.assert_near(split(8, name)(), split(1, name)(), 3e-5)


@pytest.mark.slow
def test_one_replica_in_tiles_equals_one_tile(monkeypatch):
    whole = split(1, **SMOOTH)()
    little_room(monkeypatch)
    tiny.assert_near(split(1, **SMOOTH)(), whole, 3e-5)


@pytest.mark.slow
@pytest.mark.parametrize("devices", [1, 2, 4, 8])
@pytest.mark.parametrize("pool", ["aligned", "softmax", "mean", "joint"])
@pytest.mark.parametrize("masks", ["pair", "own"])
@pytest.mark.parametrize("small_tiles", [False, True])
def test_every_pool_on_every_number_of_devices(monkeypatch, devices, pool, masks, small_tiles):
    if small_tiles:
        little_room(monkeypatch)
    assert_as_dense(devices, losses__pool=pool, losses__dfsm_masks=masks, **SMOOTH)


@pytest.mark.slow
@pytest.mark.parametrize("devices", [1, 2, 8])
@pytest.mark.parametrize("layout", ["cross", "joint", "tokens", "none"])
def test_every_layout(monkeypatch, devices, layout):
    little_room(monkeypatch)
    name = "cmn_only" if layout == "none" else "full"
    assert_as_dense(devices, name, model__tmn__layout=layout, **SMOOTH)


@pytest.mark.slow
@pytest.mark.parametrize("devices", [1, 4, 8])
@pytest.mark.parametrize("form", ["hinge", "relative"])
@pytest.mark.parametrize("negatives", ["same_index", "all"])
@pytest.mark.parametrize("k", [1, 12])
def test_every_frame_contrast_and_hard_pairs(monkeypatch, devices, form, negatives, k):
    little_room(monkeypatch)
    options = {"losses__frame_form": form, "losses__frame_negatives": negatives}
    options |= {"losses__hard_pairs": k, "losses__dfsm_masks": "own"}
    assert_as_dense(devices, **options, **SMOOTH)
