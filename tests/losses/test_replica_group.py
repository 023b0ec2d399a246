"""The whole objective on a batch that is sharded over devices, against the dense one."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mova_jax.losses import context, hard_sfdm, ring
from mova_jax.losses.batch_rows import row_keys
from mova_jax.losses.objective import loss_of_embeddings, objective
from mova_jax.parallel import collectives, sharding
from mova_jax.parallel import mesh as mesh_lib
from mova_jax.planning import hlo
from mova_jax.typing import Batch, TextEmbedding, VideoEmbedding
from tests import tiny
from tests.losses import dense
from tests.tiny import D, F, L, W

ROWS = 16
EMPTY = (4, 5, 11)  # 4 and 5 are all rows of one of eight replicas
VALID = np.setdiff1d(np.arange(ROWS), EMPTY)
SMOOTH = {"model__masks__kind": "soft"}  # a rounding error can flip a hard mask


def embeddings(garbage=7.0):
    """Videos and captions of several lengths, some empty; padding is filled with garbage."""
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


# Rows that are no negatives of each other: by the caption, or the video, on one replica and on two.
# Row 8 is like 7 and like 15, which are not alike; 4 is padding.
SAME_TEXT, SAME_VIDEO = ((2, 3), (2, 14), (3, 14), (7, 8), (4, 0)), ((0, 9), (8, 15), (12, 13))


def keys_of_alike_rows():
    """The keys of the batch whose rows are alike as said above."""
    arrays = tiny.batch_arrays(ROWS)
    for a, b in SAME_TEXT:
        for name in ("tokens", "token_mask"):
            arrays[name][b] = arrays[name][a]
    for a, b in SAME_VIDEO:
        arrays["video_id"][b] = arrays["video_id"][a]
    return row_keys(Batch(**arrays))


def compiled(loss_of):
    """`(model, video, text) -> ((loss, metrics), gradients)` for a loss of the three."""

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


def sharded(devices, name="full", keys=None, **options):
    """The objective on a number of devices, as a function of the garbage in padding."""
    mesh = mesh_lib.make_mesh(data=devices)
    cfg, model = tiny.config(name, **options).losses, tiny.model(name, **options)

    def loss_of(model, video, text):
        valid, group = video.frame_mask.any(-1), collectives.replica_group(mesh)
        return loss_of_embeddings(model, video, text, valid, cfg, group, keys=keys)

    program = compiled(loss_of)

    def call(garbage=7.0, run=True):
        """The results, or the text of the compiled program."""
        rows = jax.device_put(embeddings(garbage), sharding.batch_sharding(mesh))
        return program(jax.device_put(model, sharding.replicated(mesh)), *rows, run=run)

    return call


def unsharded(name="full", alike=(), **options):
    cfg, model = tiny.config(name, **options).losses, tiny.model(name, **options)
    rows = jax.tree.map(jnp.asarray, embeddings())
    return compiled(lambda *args: dense.objective(*args, cfg, VALID, alike))(model, *rows)


def force_small_tiles(monkeypatch):
    """Makes tiles smaller than the pairs of one of four replicas."""
    monkeypatch.setattr(ring, "STORED_FLOATS", 0)
    monkeypatch.setattr(ring, "TILE_FLOATS", 5 * 64 * F * D)


def assert_as_dense(devices, name="full", keys=None, alike=(), **options):
    """Compares loss, terms and all gradients; other garbage in padding must not change a bit."""
    run = sharded(devices, name, keys, **options)
    result = (loss, metrics), gradient = run()
    (expected, terms), reference = unsharded(name, alike, **options)
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
MANY = {"losses__hard_pairs": 12, "train__batch_size": 16}  # fewer than the batch has
OTHERS = {"losses__frame_negatives": "all"}
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
def test_sharded_batch_equals_the_dense_objective(devices, name, options):
    assert_as_dense(devices, name, **options)


def test_sharded_batch_in_small_tiles_equals_the_dense_objective(monkeypatch):
    force_small_tiles(monkeypatch)
    assert_as_dense(4, **ALIGNED, **OTHERS, **SMOOTH)


@pytest.mark.parametrize(
    ("devices", "options"),
    [
        (8, HARD),
        (2, OTHERS),
        pytest.param(1, HARD | OTHERS, marks=pytest.mark.slow),
        pytest.param(8, HARD | MANY, marks=pytest.mark.slow),
    ],
    ids=["hard-own", "all-frames", "one", "all-hard"],
)
def test_rows_of_the_same_video_or_caption_are_no_negatives(devices, options):
    keys = jax.tree.map(jnp.asarray, keys_of_alike_rows())
    assert_as_dense(devices, keys=keys, alike=SAME_TEXT + SAME_VIDEO, **options, **SMOOTH)


COLLECTIVES = ("all-gather", "all-reduce", "collective-permute", "reduce-scatter", "all-to-all")


def unordered_collectives(text: str) -> list[tuple[str, str]]:
    """Pairs of collectives in a compiled program of which neither depends on the other.

    A loop with collectives counts as one: its own are executed one after the other.
    """
    module = hlo.parse(text)

    def communicates(line) -> bool:
        inner = [name for names in line.called().values() for name in names]
        return line.opcode.startswith(COLLECTIVES) or any(
            communicates(other) for name in inner for other in module.computations.get(name, ())
        )

    (main,) = (name for name in module.computations if name.startswith("main"))
    before: dict[str, set[str]] = {}  # the collectives that an instruction depends on
    collectives, unordered = [], []
    for line in module.computations[main]:
        depends = set().union(*(before.get(name, ()) for name in line.operands))
        if communicates(line):
            unordered += [(other, line.name) for other in collectives if other not in depends]
            collectives.append(line.name)
            depends.add(line.name)
        before[line.name] = depends
    assert len(collectives) > 2
    return unordered


@pytest.mark.parametrize(("name", "options"), [("full", HARD | SMOOTH), ("full", SMOOTH)])
def test_collectives_of_simulated_devices_are_ordered_by_data_dependence(name, options):
    # Devices that start them in different orders hang, now and then.
    assert unordered_collectives(sharded(8, name, **options)(run=False)) == []


def test_recomputed_captions_of_hard_pairs_change_nothing(monkeypatch):
    options = HARD | SMOOTH
    stored = sharded(4, **options)()
    recomputed, calls = hard_sfdm._recomputed_scores, []
    monkeypatch.setattr(context, "STORED_NUMBERS", 0)
    monkeypatch.setattr(
        hard_sfdm, "_recomputed_scores", lambda *args: calls.append(1) or recomputed(*args)
    )
    tiny.assert_near(sharded(4, **options)(), stored, 1e-5)
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


# -- all combinations


@pytest.mark.slow
@pytest.mark.parametrize("name", ["full", "paper"])
def test_eight_replicas_equal_one_with_hard_masks(name):
    tiny.assert_near(sharded(8, name)(), sharded(1, name)(), 3e-5)


@pytest.mark.slow
def test_one_replica_in_tiles_equals_one_tile(monkeypatch):
    whole = sharded(1, **SMOOTH)()
    force_small_tiles(monkeypatch)
    tiny.assert_near(sharded(1, **SMOOTH)(), whole, 3e-5)


@pytest.mark.slow
@pytest.mark.parametrize("devices", [1, 2, 4, 8])
@pytest.mark.parametrize("pool", ["aligned", "softmax", "mean", "joint"])
@pytest.mark.parametrize("masks", ["pair", "own"])
@pytest.mark.parametrize("small_tiles", [False, True])
def test_every_pool_on_every_number_of_devices(monkeypatch, devices, pool, masks, small_tiles):
    if small_tiles:
        force_small_tiles(monkeypatch)
    assert_as_dense(devices, losses__pool=pool, losses__dfsm_masks=masks, **SMOOTH)


@pytest.mark.slow
@pytest.mark.parametrize("devices", [1, 2, 8])
@pytest.mark.parametrize("layout", ["cross", "joint", "tokens", "none"])
def test_every_layout(monkeypatch, devices, layout):
    force_small_tiles(monkeypatch)
    name = "cmn_only" if layout == "none" else "full"
    assert_as_dense(devices, name, model__tmn__layout=layout, **SMOOTH)


@pytest.mark.slow
@pytest.mark.parametrize("devices", [1, 4, 8])
@pytest.mark.parametrize("negatives", ["same_index", "all"])
@pytest.mark.parametrize("k", [1, 12])
def test_every_frame_contrast_and_hard_pairs(monkeypatch, devices, negatives, k):
    force_small_tiles(monkeypatch)
    options = {"losses__frame_negatives": negatives}
    options |= MANY | {"losses__hard_pairs": k, "losses__dfsm_masks": "own"}
    assert_as_dense(devices, **options, **SMOOTH)
