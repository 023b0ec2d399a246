"""Self-attention for TPUs that keeps the weights of all pairs of positions in the chip's memory.

JAX's own kernels (flash and splash attention) are made for thousands of positions: they write
statistics of a softmax as 128 equal float32 numbers a row, and want heads apart and padded to 128
numbers. At the 50 to 257 positions of a picture and the 248 of a caption that is as much traffic as
the weights themselves. Here one step of the grid has a whole sequence with all its heads, as the
product before leaves it, so that nothing is transposed or padded in memory, and the backward pass
computes the softmax again from query and key.

Heads narrower than the 128 lanes of a register are not cut out: the lanes of the other heads are
set to 0, which leaves products as they are and costs the matrix unit nothing.
"""

import functools

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
from jaxtyping import Array, Bool, Float

LANES = 128
MIB = 2**20
ROWS = (((1,), (1,)), ((), ()))  # a b^T
INNER = (((1,), (0,)), ((), ()))  # a b
COLUMNS = (((0,), (0,)), ((), ()))  # a^T b
HEADS = f"heads whose width divides {LANES}, and {LANES} or a multiple of it in all"


def takes_heads(n: int, e: int) -> bool:
    """Whether the kernel takes n heads of width e, see `HEADS`."""
    return (n * e) % LANES == 0 and (LANES % e == 0 or e % LANES == 0)


def pallas_attention(
    qkv: Float[Array, "b l 3 n e"],
    valid: Bool[Array, "b l"] | None = None,
    causal: bool = False,
    interpret: bool = False,
) -> Float[Array, "b l n e"]:
    """Self-attention of each row with itself.

    Args:
        qkv: query, key and value of n heads; n * e is a multiple of 128, and e divides 128 or is a
            multiple of it.
        valid: positions that may be attended to; None: all. Where there is none the result is 0.
        causal: whether a position attends to no later one.
        interpret: run the kernel as plain operations, on any device.

    Raises:
        ValueError: for heads of another width.
    """
    b, l, _, n, e = qkv.shape
    if not takes_heads(n, e):
        raise ValueError(f"expected {HEADS}; got {n} of {e}")
    mask = None if valid is None else valid.astype(jnp.int32)[:, None]
    # e in the static arguments: the arrays that the kernel sees have no axis of heads.
    out = _attention(qkv.reshape(b, l, 3 * n * e), mask, e, causal, interpret)
    return out.reshape(b, l, n, e)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3, 4))
def _attention(qkv, valid, e: int, causal: bool, interpret: bool):
    b, l, width = qkv.shape
    kernel = functools.partial(_forward, e, causal)
    out = jax.ShapeDtypeStruct((b, l, width // 3), qkv.dtype)
    return _call(kernel, (qkv,), valid, out, interpret)


def _attention_fwd(qkv, valid, e, causal, interpret):
    return _attention(qkv, valid, e, causal, interpret), (qkv, valid)


def _attention_bwd(e, causal, interpret, saved, gradient):
    qkv, valid = saved
    kernel = functools.partial(_backward, e, causal)
    out = jax.ShapeDtypeStruct(qkv.shape, qkv.dtype)
    return _call(kernel, (qkv, gradient), valid, out, interpret), None


_attention.defvjp(_attention_fwd, _attention_bwd)


def _call(kernel, arrays, valid, out, interpret: bool):
    """Runs a kernel row by row: `kernel(*arrays, valid or nothing, out)` on blocks of one row."""
    operands = arrays if valid is None else (*arrays, valid)
    b, l, _ = arrays[0].shape

    def block(array):
        return pl.BlockSpec((1, *array.shape[1:]), lambda i: (i, 0, 0))

    # Two blocks of each array, for the next one is read ahead; and the weights of one head, several
    # times over.
    padded = -(-l // LANES) * LANES
    needed = 4 * sum(x.shape[-1] for x in (*arrays, out)) * padded * arrays[0].dtype.itemsize
    needed += 10 * 4 * padded**2
    return pl.pallas_call(
        kernel if valid is not None else functools.partial(_without_mask, kernel),
        grid=(b,),
        in_specs=[block(array) for array in operands],
        out_specs=block(out),
        out_shape=out,
        interpret=interpret,
        compiler_params=pltpu.CompilerParams(
            dimension_semantics=("parallel",), vmem_limit_bytes=max(16 * MIB, needed)
        ),
    )(*operands)


def _without_mask(kernel, *refs):
    kernel(*refs[:-1], None, refs[-1])


def _forward(e: int, causal: bool, qkv_ref, valid_ref, out_ref):
    for columns, (query, key, value) in _groups(e, qkv_ref):
        total = 0.0
        for own in _heads(e, query):
            weights = _weights(own(query), key, e, _mask(valid_ref, causal, query.shape[0]))
            total = total + _product(weights.astype(value.dtype), own(value), INNER)
        out_ref[0, :, columns : columns + _group(e)] = total.astype(out_ref.dtype)


def _backward(e: int, causal: bool, qkv_ref, gradient_ref, valid_ref, out_ref):
    width = gradient_ref.shape[-1]
    for columns, (query, key, value) in _groups(e, qkv_ref):
        gradient = gradient_ref[0, :, columns : columns + _group(e)]
        sums = [0.0, 0.0, 0.0]
        for own in _heads(e, query):
            mask = _mask(valid_ref, causal, query.shape[0])
            weights = _weights(own(query), key, e, mask)
            by_weight = _product(own(gradient), value, ROWS)
            by_logit = by_weight - jnp.sum(weights * by_weight, axis=-1, keepdims=True)
            by_logit = (weights * by_logit * e**-0.5).astype(query.dtype)
            sums[0] = sums[0] + _product(by_logit, own(key), INNER)
            sums[1] = sums[1] + _product(by_logit, own(query), COLUMNS)
            sums[2] = sums[2] + _product(weights.astype(value.dtype), own(gradient), COLUMNS)
        for part, total in enumerate(sums):
            start = part * width + columns
            out_ref[0, :, start : start + _group(e)] = total.astype(out_ref.dtype)


def _group(e: int) -> int:
    """Columns of the heads that share the lanes of a register."""
    return max(e, LANES)


def _groups(e: int, qkv_ref):
    """(first column, (query, key, value)) of each group of heads."""
    width = qkv_ref.shape[-1] // 3
    for start in range(0, width, _group(e)):
        at = [part * width + start for part in range(3)]
        yield start, tuple(qkv_ref[0, :, i : i + _group(e)] for i in at)


def _heads(e: int, like):
    """For each head of a group, the function that sets the lanes of the others to 0."""
    if e >= LANES:
        return [lambda x: x]
    head = jax.lax.broadcasted_iota(jnp.int32, like.shape, 1) // e
    return [lambda x, i=i: jnp.where(head == i, x, jnp.zeros_like(x)) for i in range(LANES // e)]


def _mask(valid_ref, causal: bool, length: int):
    """bool[l l], or None where every position attends to all."""
    mask = None
    if causal:
        rows, columns = (jax.lax.broadcasted_iota(jnp.int32, (length, length), i) for i in (0, 1))
        mask = rows >= columns
    if valid_ref is not None:
        valid = jnp.broadcast_to(valid_ref[0], (length, length)) > 0
        mask = valid if mask is None else mask & valid
    return mask


def _weights(query, key, e: int, mask):
    """The softmax, float32 [l l]; 0 for a position that attends to none."""
    logits = _product(query, key, ROWS) * e**-0.5
    if mask is not None:
        logits = jnp.where(mask, logits, -1e30)
    weights = jnp.exp(logits - jnp.max(logits, axis=-1, keepdims=True))
    if mask is not None:
        weights = jnp.where(mask, weights, 0.0)
    total = jnp.sum(weights, axis=-1, keepdims=True)
    return weights / jnp.where(total > 0.0, total, 1.0)


def _product(a, b, dimensions):
    return jax.lax.dot_general(a, b, dimensions, preferred_element_type=jnp.float32)
