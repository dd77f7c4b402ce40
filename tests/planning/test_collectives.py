"""What devices send each other, read out of programs written by hand and compiled."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from genret_jax.errors import InputError
from genret_jax.parallel.mesh import make_mesh
from genret_jax.planning.collectives import Collective, collectives_of
from genret_jax.planning.counting import count, product_operations
from genret_jax.planning.devices import DEVICES
from genret_jax.planning.programs import shapes_on

PROGRAM = """\
HloModule by_hand

%sum (a: f32[], b: f32[]) -> f32[] {
  ROOT %add = f32[] add(%a, %b)
}

%turn (state: (s32[], f32[4,8])) -> (s32[], f32[4,8]) {
  %reduced = f32[4,8]{1,0} all-reduce(%x), channel_id=1, replica_groups=[2,4]<=[8], to_apply=%sum
  ROOT %next = (s32[], f32[4,8]) tuple(%i, %reduced)
}

%again (state: (s32[], f32[4,8])) -> pred[] {
  ROOT %less = pred[] compare(%i, %n), direction=LT
}

ENTRY %main (x: f32[4,8]) -> bf16[16,8] {
  %loop = (s32[], f32[4,8]) while(%start), condition=%again, body=%turn, backend_config={"known_trip_count":{"n":"5"}}
  %open = (s32[], f32[4,8]) while(%loop), condition=%again, body=%turn
  %pair = (bf16[4,8]{1,0}, bf16[16,8]{1,0}) all-gather-start(%y), replica_groups={{0,4,2,6},{1,5,3,7}}, dimensions={0}
  %done = bf16[16,8]{1,0} all-gather-done(%pair)
  %parts = f32[1,8]{1,0} reduce-scatter(%z), replica_groups=[2,4]<=[4,2]T(1,0), dimensions={0}, to_apply=%sum
  ROOT %moved = s8[10]{0} collective-permute(%w), source_target_pairs={{0,1},{1,0}}
}
"""


def test_a_program_by_hand():
    found = collectives_of(PROGRAM, 8)
    assert {(c.kind, c.size, c.times) for c in found} == {
        ("all-reduce", 4 * 8 * 4, 5 + 1),  # the loop of unknown length counts once
        ("all-gather", 16 * 8 * 2, 1),
        ("reduce-scatter", 4 * 8 * 4, 1),
        ("collective-permute", 10, 1),
    }
    groups = {c.kind: c.groups.tolist() for c in found}
    assert groups["all-reduce"] == [[0, 1, 2, 3], [4, 5, 6, 7]]
    assert groups["all-gather"] == [[0, 4, 2, 6], [1, 5, 3, 7]]
    assert groups["reduce-scatter"] == [[0, 2, 4, 6], [1, 3, 5, 7]]


@pytest.mark.parametrize(
    ("kind", "sent"),
    [("all-reduce", 150), ("all-gather", 75), ("reduce-scatter", 75), ("all-to-all", 75), ("collective-permute", 100)],
)
def test_what_a_device_sends_on_a_ring_of_four(kind, sent):
    assert Collective(kind, 100, np.array([[0, 1, 2, 3]]), 1).sent == sent


def test_groups_that_leave_a_machine():
    within, beyond = np.array([[0, 1], [2, 3]]), np.array([[0, 2], [1, 3]])
    assert not Collective("all-gather", 1, within, 1).leaves(2)
    assert Collective("all-gather", 1, beyond, 1).leaves(2)
    assert not Collective("all-gather", 1, beyond, 1).leaves(None)


def test_a_product_of_matrices_is_counted_as_by_hand():
    """Rows over data, the summed axis over model: two operations a multiplication, and one sum over model."""
    mesh = make_mesh(model_parallel=4)
    x = shapes_on(mesh, jax.ShapeDtypeStruct((64, 128), np.float32), "data", "model")
    w = shapes_on(mesh, jax.ShapeDtypeStruct((128, 32), np.float32), "model", None)
    result = NamedSharding(mesh, PartitionSpec("data", None))
    found = count(jax.jit(jnp.matmul, out_shardings=result).trace(x, w), DEVICES["cpu"], 8)
    assert found["products"] == 2 * 64 * 128 * 32 / 8
    assert found["flops"] == pytest.approx(2 * 64 * 128 * 32 / 8, rel=0.05)
    assert found["collective/all-reduce"] == 32 * 32 * 4
    assert found["sent/link"] == 32 * 32 * 4 * 2 * 3 / 4
    assert found["bytes/argument"] == (32 * 32 + 32 * 32) * 4


def test_products_in_loops_and_branches_count_as_often_as_they_are_made():
    """Seven turns of a loop with a product, then the larger of two branches."""

    def program(x, w):
        x, _ = jax.lax.scan(lambda x, _: (x @ w, None), x, length=7)
        return jax.lax.cond(x.sum() > 0, lambda x: x, jax.checkpoint(lambda x: x @ w @ w), x)

    jaxpr = jax.make_jaxpr(program)(jnp.ones((5, 3)), jnp.ones((3, 3))).jaxpr
    assert product_operations(jaxpr) == (7 + 2) * 2 * 5 * 3 * 3


class Unreadable:
    """A program of a TPU compiler that this jaxlib cannot write out."""

    jaxpr = jax.make_jaxpr(lambda x: x)(1.0)

    def lower(self):
        return self

    compile = lower

    def memory_analysis(self):
        return jax.jit(lambda x: x).lower(1.0).compile().memory_analysis()

    def cost_analysis(self):
        return {"flops": 1.0, "bytes accessed": 1.0}

    def as_text(self):
        raise jax.errors.JaxRuntimeError("INTERNAL: async-update instruction should have 1 operands but sees 4\n...")


def test_a_program_that_cannot_be_read_is_an_input_error():
    with pytest.raises(InputError, match=r"cannot be read .*sees 4\); next: plan for another"):
        count(Unreadable(), DEVICES["tpu-v5p"], 8)
