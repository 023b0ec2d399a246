"""What is read out of a compiled program: hand-written ones, and small ones that XLA compiled."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from mova_jax.cost.chips import CHIPS
from mova_jax.planning import collectives, hbm_traffic, hlo

LOOP = """HloModule jit_f, is_scheduled=true

%add (a: f32[], b: f32[]) -> f32[] {
  %a = f32[] parameter(0)
  %b = f32[] parameter(1)
  ROOT %c = f32[] add(%a, %b)
}

%fused (p.0: f32[6,8], p.1: s32[]) -> f32[2,8] {
  %p.0 = f32[6,8]{1,0} parameter(0)
  %p.1 = s32[] parameter(1)
  ROOT %slice = f32[2,8]{1,0} dynamic-slice(%p.0, %p.1, %p.1), dynamic_slice_sizes={2,8}
}

%body (s: (s32[], f32[6,8])) -> (s32[], f32[6,8]) {
  %s = (s32[], f32[6,8]{1,0:T(8,128)}) parameter(0)
  %i = s32[] get-tuple-element(%s), index=0
  %x = f32[6,8]{1,0:T(8,128)} get-tuple-element(%s), index=1
  %part = f32[2,8]{1,0} fusion(%x, %i), kind=kLoop, calls=%fused
  %fast = bf16[2,8]{1,0:T(8,128)(2,1)S(1)} convert(%part)
  %sum = f32[6,8]{1,0} all-reduce(%x), replica_groups=[2,4]<=[4,2]T(1,0), to_apply=%add
  ROOT %t = (s32[], f32[6,8]) tuple(%i, %sum)
}

%cond (s: (s32[], f32[6,8])) -> pred[] {
  %limit = s32[]{:T(128)} constant(5)
  %s.1 = (s32[], f32[6,8]) parameter(0)
  %i.1 = s32[] get-tuple-element(%s.1), index=0
  ROOT %lt = pred[] compare(%i.1, %limit), direction=LT
}

ENTRY %main (x: f32[6,8]) -> f32[6,8] {
  %x.2 = f32[6,8]{1,0} parameter(0)
  %zero = s32[] constant(0)
  %start = (s32[], f32[6,8]) tuple(%zero, %x.2)
  %loop = (s32[], /*index=1*/f32[6,8]{1,0:T(8,128)}) while(%start), condition=%cond, body=%body
  ROOT %y = f32[6,8]{1,0} get-tuple-element(%loop), index=1
}
"""


def compiled(function, *arrays):
    return hlo.parse(jax.jit(function).lower(*arrays).compile().as_text())


def test_a_loop_counts_as_often_as_its_counter_is_below_the_constant():
    module = hlo.parse(LOOP)
    assert module.entry == "main"
    times = {line.name: n for line, n, _ in module.running()}
    assert times["loop"] == 1 and times["sum"] == times["part"] == 5
    assert "slice" not in times  # a piece of a fusion


def test_the_trip_count_that_the_compiler_wrote_down_wins():
    known = LOOP.replace("body=%body", 'body=%body, backend_config={"known_trip_count":{"n":"7"}}')
    assert {n for line, n, _ in hlo.parse(known).running() if line.name == "sum"} == {7}


def test_a_collective_in_a_loop_has_its_group_and_all_its_bytes():
    (found,) = collectives.of_program(hlo.parse(LOOP), 8)
    assert (found.kind, found.times, found.size) == ("all-reduce", 5, 4)
    assert found.group == (0, 2, 4, 6)
    assert found.bytes == 5 * 2 * (6 * 8 * 4) * 3 / 4


def test_bytes_are_slices_of_what_is_sliced_and_nothing_in_the_fast_memory():
    # The fusion reads and writes [2 8] (and reads its counter), the conversion reads [2 8] and
    # writes to VMEM, the collective reads and writes [6 8].
    per_trip = (64 + 64 + 4) + 64 + 2 * 192
    assert hbm_traffic.bytes_moved(hlo.parse(LOOP)) == 5 * per_trip


def test_a_slice_in_a_fusion_inside_a_fusion_reads_no_more_than_the_slice():
    outer = """%outer (q.0: f32[6,8], q.1: s32[]) -> f32[2,8] {
  %q.0 = f32[6,8]{1,0} parameter(0)
  %q.1 = s32[] parameter(1)
  %inner = f32[2,8]{1,0} fusion(%q.0, %q.1), kind=kLoop, calls=%fused
  ROOT %twice = f32[2,8]{1,0} add(%inner, %inner)
}

%body"""
    nested = LOOP.replace("%body", outer, 1).replace(
        "%i), kind=kLoop, calls=%fused", "%i), kind=kOutput, calls=%outer"
    )
    assert nested.count("calls=%outer") == nested.count("calls=%fused") == 1
    moved = hbm_traffic.bytes_moved(hlo.parse(LOOP))
    assert hbm_traffic.bytes_moved(hlo.parse(nested)) == moved
    whole = nested.replace("add(%inner, %inner)", "dynamic-slice(%q.0, %q.1, %q.1)").replace(
        "dynamic-slice(%p.0, %p.1, %p.1)", "negate(%p.0)"
    )
    assert hbm_traffic.bytes_moved(hlo.parse(whole)) == moved + 5 * (192 - 64)


def test_bytes_of_a_product_are_its_operands_and_its_result():
    x, w = jnp.ones((64, 32)), jnp.ones((32, 16))
    assert hbm_traffic.bytes_moved(compiled(jnp.matmul, x, w)) == 4 * (64 * 32 + 32 * 16 + 64 * 16)


def test_scans_of_a_real_program_are_counted_by_their_length():
    def scanned(x, w):
        return jax.lax.scan(lambda c, w: (jnp.tanh(c @ w), None), x, w)[0]

    def bytes_of(length):
        return hbm_traffic.bytes_moved(
            compiled(scanned, jnp.ones((64, 64)), jnp.ones((length, 64, 64)))
        )

    assert bytes_of(31) - bytes_of(21) == pytest.approx(bytes_of(21) - bytes_of(11), rel=0.01)
    assert bytes_of(11) > 11 * 3 * 64 * 64 * 4


@pytest.mark.parametrize(
    ("groups", "expected"),
    [
        ("{{0,1,2,3},{4,5,6,7}}", (0, 1, 2, 3)),
        ("[2,4]<=[8]", (0, 1, 2, 3)),
        ("[4,2]<=[2,4]T(1,0)", (0, 4)),
        ("mesh['a'=8,'b'=1] {'a'}", tuple(range(8))),
        ("mesh['a'=4,'b'=2] {'b'}", (0, 1)),
        ("mesh['a'=4,'b'=2] {'a'}", (0, 2, 4, 6)),
        ("mesh['a'=4,'b'=2] {'a','b'}", tuple(range(8))),
        ("mesh['a'=8] {'a':(1)2}", (0, 4)),
        ("mesh['a'=8] {'a':(4)2}", (0, 1)),
        # Of programs for GPUs: the order of the devices is that of [2,4], transposed.
        ("mesh['a'=4,'b'=1,'c'=2], device_ids=([2,4]T(1,0)) {'a'}", (0, 1, 2, 3)),
        ("mesh['a'=4,'b'=1,'c'=2], device_ids=([2,4]T(1,0)) {'c'}", (0, 4)),
        ("{}", tuple(range(8))),
    ],
)
def test_groups_in_every_notation(groups, expected):
    line = f"  %g = f32[8]{{0}} all-gather(%x), replica_groups={groups}, dimensions={{0}}"
    text = f"ENTRY %m (x: f32[1]) -> f32[8] {{\n  %x = f32[1]{{0}} parameter(0)\n{line}\n}}\n"
    (found,) = collectives.of_program(hlo.parse(text), 8)
    assert found.group == expected
    assert found.bytes == 32 * (len(expected) - 1) / len(expected)


def test_collectives_of_a_program_that_xla_partitioned():
    mesh = jax.make_mesh((8,), ("d",), axis_types=(AxisType.Auto,))
    rows, whole = (NamedSharding(mesh, PartitionSpec(*axes)) for axes in (("d",), ()))
    x = jax.ShapeDtypeStruct((16, 32), np.float32, sharding=rows)
    w = jax.ShapeDtypeStruct((32, 4), np.float32, sharding=whole)
    step = jax.jit(lambda x, w: jax.grad(lambda w: (x @ w).sum())(w), out_shardings=whole)
    module = hlo.parse(step.lower(x, w).compile().as_text())
    found = collectives.of_program(module, 8)
    assert {c.kind for c in found} == {"all-reduce"}
    assert found[0].size == 8 and found[0].bytes <= 2 * 32 * 4 * 4 * 7 / 8


class Device:
    def __init__(self, *coords):
        self.coords = coords


@pytest.mark.parametrize(
    ("chip", "shape", "group", "expected"),
    [
        ("v5e", (4, 4), range(16), 2),  # a mesh: one neighbour at the end of each axis
        ("v5e", (16, 16), range(256), 4),  # rings both ways
        ("v5e", (16, 16), range(16), 2),  # one axis
        ("v5p", (4, 4, 4), range(64), 6),
        ("v5p", (2, 2, 1), range(4), 2),
    ],
)
def test_links_of_a_group_are_those_of_the_axes_it_spans(chip, shape, group, expected):
    places = np.stack(np.unravel_index(range(int(np.prod(shape))), shape[::-1]), 1)[:, ::-1]
    devices = [Device(*place) for place in places]
    assert collectives.links(tuple(group), devices, shape, CHIPS[chip]) == expected


def test_a_collective_that_is_done_in_several_steps_counts_once():
    gather = (
        "  %g{0} = f32[8]{{0}} all-gather(%x), channel_id={1}, replica_groups=[1,8]<=[8], "
        "dimensions={{0}}"
    )
    lines = "\n".join([gather.format(1, 5), gather.format(2, 5), gather.format(3, 6)])
    text = f"ENTRY %m (x: f32[1]) -> f32[8] {{\n  %x = f32[1]{{0}} parameter(0)\n{lines}\n}}\n"
    assert len(collectives.of_program(hlo.parse(text), 8)) == 2


def test_a_collective_inside_a_fusion_and_one_that_starts_early_are_found():
    text = """
%step (p: f32[4]) -> f32[32] {
  %p = f32[4]{0} parameter(0)
  ROOT %g = f32[32]{0} all-gather(%p), channel_id=1, replica_groups=[1,8]<=[8], dimensions={0}
}

ENTRY %m (x: f32[4]) -> f32[32] {
  %x = f32[4]{0} parameter(0)
  %early = (f32[4]{0}, f32[4]{0}, u32[]{:S(2)}, u32[]{:S(2)}) collective-permute-start(%x), \
channel_id=2, source_target_pairs={{0,1},{1,2},{2,0}}
  %late = f32[4]{0} collective-permute-done(%early)
  ROOT %f = f32[32]{0} fusion(%late), kind=kCustom, calls=%step
}
"""
    found = {c.kind: c for c in collectives.of_program(hlo.parse(text), 8)}
    assert found["all-gather"].bytes == 4 * 32 * 7 / 8
    assert (found["collective-permute"].bytes, found["collective-permute"].group) == (16, (0, 1))


# As XLA writes them for H100s: a start returns its operands and results (an all-reduce only these),
# and all collectives of a `shard_map` have the channel 1.
FOR_GPUS = """
ENTRY %m (x: f32[8,4]) -> f32[8,4] {
  %x = f32[8,4]{1,0} parameter(0)
  %a = ((f32[8,4]{1,0}), f32[2,4]{1,0}) reduce-scatter-start(%x), channel_id=4, \
replica_groups=[2,4]<=[8], dimensions={0}, to_apply=%add
  %b = ((f32[8,4]{1,0}), f32[8,4]{1,0}) all-to-all-start(%x), channel_id=1, \
replica_groups=[2,4]<=[8], dimensions={0}
  %c = f32[8,4]{1,0} all-reduce-start(%x), channel_id=5, replica_groups=[2,4]<=[8], to_apply=%add
  %d = (f32[8,4]{1,0}, f32[8,4]{1,0}) collective-permute-start(%x), channel_id=1, \
source_target_pairs={{0,0},{1,3}}
  %e = (f32[8,4]{1,0}, f32[8,4]{1,0}) collective-permute-start(%x), channel_id=1, \
source_target_pairs={{0,7},{7,0}}
  %g = (f32[8,8]{1,0}, s8[4194304]{0}) custom-call(%x, %x), custom_call_target="__cublas$lt$matmul"
  ROOT %y = f32[8,4]{1,0} bitcast(%x)
}
"""


def test_collectives_that_start_early_on_gpus_count_what_is_received():
    found = collectives.of_program(hlo.parse(FOR_GPUS), 8, by_channel=False)
    whole, share = 4 * 8 * 4, 3 / 4
    assert [(c.kind, c.bytes) for c in found] == [
        ("reduce-scatter", whole * share),
        ("all-to-all", whole * share),
        ("all-reduce", 2 * whole * share),
        ("collective-permute", whole),
        ("collective-permute", whole),
    ]


def test_the_workspace_of_a_product_on_gpus_is_not_moved():
    lines = FOR_GPUS.splitlines()
    text = "\n".join(line for line in lines if not any(f"%{name} =" in line for name in "abcde"))
    text = "\n".join(line for line in text.splitlines() if not line.startswith(("rep", "sou")))
    assert hbm_traffic.bytes_moved(hlo.parse(text)) == 4 * (8 * 4 + 8 * 4 + 8 * 8)


def test_what_comes_in_from_other_slices_is_what_the_runtime_receives():
    text = """
ENTRY %m (x: f32[4]) -> f32[4] {
  %x = f32[4]{0} parameter(0)
  %t = token[] after-all()
  %in = (f32[8,4]{1,0}, u32[], token[]) recv(%t), channel_id=1, is_host_transfer=true, \
frontend_attributes={_xla_host_transfer_handler_name="xla_megascale_runtime"}
  ROOT %y = f32[4]{0} copy(%x)
}
"""
    (found,) = collectives.of_program(hlo.parse(text), 4)
    assert (found.kind, found.bytes) == (collectives.NETWORK, 4 * 8 * 4)
