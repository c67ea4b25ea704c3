import jax
import jax.numpy as jnp
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from moejax.parallel import collective_bytes, program_text

# A device has 8 rows of 16 float32 numbers: 512 bytes.
ROWS, WIDTH, OWN = 8, 16, 512


def _compiled(local):
  """The text of `local` on 2 x 4 devices, each with its own rows."""
  mesh = jax.make_mesh((2, 4), ('a', 'b'), axis_types=(AxisType.Auto,) * 2)
  spec = P(('a', 'b'))
  run = jax.shard_map(
    local, mesh=mesh, in_specs=spec, out_specs=spec, check_vma=False
  )
  x = jax.ShapeDtypeStruct(
    (8 * ROWS, WIDTH), jnp.float32, sharding=NamedSharding(mesh, spec)
  )
  return jax.jit(run).lower(x).compile().as_text()


def _shift(x):
  return jax.lax.ppermute(x, 'b', [(i, (i + 1) % 4) for i in range(4)])


# By hand, on groups of 4 along b and 2 along a.
BY_HAND = {
  # Three others' 512 bytes come.
  'all-gather': (
    lambda x: jax.lax.all_gather(x, 'b', axis=0, tiled=True),
    3 * OWN,
  ),
  # A quarter of what one has, two rows of 64 bytes, comes from each of three.
  'reduce-scatter': (
    lambda x: jax.lax.psum_scatter(x, 'b', scatter_dimension=0, tiled=True),
    3 * 2 * 64,
  ),
  # A reduce-scatter and an all-gather.
  'all-reduce': (lambda x: jax.lax.psum(x, 'b'), 2 * 3 * 2 * 64),
  # Two rows to each of the three others.
  'all-to-all': (
    lambda x: jax.lax.all_to_all(x, 'b', 0, 0, tiled=True),
    3 * 2 * 64,
  ),
  'collective-permute': (_shift, OWN),
}


@pytest.mark.parametrize('kind', BY_HAND)
def test_one_collective_moves_what_it_should_by_hand(kind):
  local, sent = BY_HAND[kind]
  found = collective_bytes.collectives(_compiled(local))
  assert collective_bytes.by_kind(found) == {kind: sent}


def test_the_size_of_the_group_counts():
  over = lambda axes: collective_bytes.by_kind(
    collective_bytes.collectives(_compiled(lambda x: jax.lax.psum(x, axes)))
  )
  assert over('a') == {'all-reduce': 2 * 1 / 2 * OWN}
  assert over(('a', 'b')) == {'all-reduce': 2 * 7 / 8 * OWN}


def test_loops_multiply_and_branches_are_optional():
  def local(x):
    def four(_, x):
      return jax.lax.fori_loop(0, 2, lambda _, x: _shift(jnp.sin(x)), x)

    x = jax.lax.fori_loop(0, 3, four, x)
    whole = lambda: jax.lax.all_gather(x, 'b', axis=0, tiled=True)[:ROWS]
    return jax.lax.cond(jnp.sum(x) > 0, whole, lambda: x)

  found = collective_bytes.collectives(_compiled(local))
  moved = {'collective-permute': 3 * 2 * OWN}
  assert collective_bytes.by_kind(found) == moved
  moved['all-gather'] = 3 * OWN
  assert collective_bytes.by_kind(found, optional=True) == moved


def test_a_program_of_one_device_moves_nothing():
  text = jax.jit(jnp.sin).lower(jnp.ones(3)).compile().as_text()
  assert collective_bytes.collectives(text) == []


# As TPUs write it: other groups, asynchronous, wrapped.
TPU = """
HloModule jit_f, is_scheduled=true, num_partitions=8

%async_computation (p: bf16[8,4]) -> bf16[2,4] {
  %p = bf16[8,4]{1,0:T(8,128)(2,1)} parameter(0)
  ROOT %rs = bf16[2,4]{1,0} reduce-scatter(%p), replica_groups=[2,4]<=[8], \
dimensions={0}, to_apply=%add
}

%add (a: bf16[], b: bf16[]) -> bf16[] {
  %a = bf16[] parameter(0)
}

ENTRY %main (x: f32[2,16]) -> f32[8,16] {
  %x = f32[2,16]{1,0} parameter(0)
  %ag = (f32[2,16]{1,0}, f32[8,16]{1,0:T(8,128)}) all-gather-start(%x), \
replica_groups=[2,4]<=[8], dimensions={0}
  %agd = f32[8,16]{1,0} all-gather-done(%ag)
  %cp = (pred[2,16]{1,0}, pred[2,16]{1,0}, u32[], u32[]) \
collective-permute-start(%x), source_target_pairs={{0,1},{1,0}}
  %self = f32[2,16] collective-permute(%x), source_target_pairs={{0,0},{1,1}}
  %rss = ((bf16[8,4]{1,0}), bf16[2,4]{1,0}) async-start(%y), \
calls=%async_computation
  %ar = (f32[3]{0}, /*index=1*/f32[]) all-reduce(%z, %z), replica_groups={}, \
to_apply=%add
}
"""


# As GPUs do: two arrays of each device are summed at once, between eight.
GPU = """
HloModule jit_f, is_scheduled=true, num_partitions=8

ENTRY %main (x: f32[256], y: bf16[64]) -> f32[32] {
  %x = f32[256]{0} parameter(0)
  %y = bf16[64]{0} parameter(1)
  %rs = ((f32[256]{0}, bf16[64]{0}), (f32[32]{0}, bf16[8]{0})) \
reduce-scatter-start(%x, %y), replica_groups=[1,8]<=[8], dimensions={0}
  ROOT %done = (f32[32]{0}, bf16[8]{0}) reduce-scatter-done(%rs)
}
"""


def test_a_start_that_lists_operands_and_results():
  found = collective_bytes.collectives(GPU)
  assert collective_bytes.by_kind(found) == {
    'reduce-scatter': 7 * (32 * 4 + 8 * 2)
  }


@pytest.mark.parametrize(
  ('groups', 'devices'),
  [
    ("mesh['a'=2,'b'=4] {'b'}", 4),
    ("mesh['a'=2,'b'=4] {'a','b'}", 8),
    ('[4,2]<=[8]', 2),
    ('{{0,1,2},{3,4,5}}', 3),
    ('{}', 8),
  ],
)
def test_groups_are_read_however_they_are_written(groups, devices):
  text = TPU.replace('[2,4]<=[8]', groups)
  found = collective_bytes.collectives(text)
  assert {one.devices for one in found if one.kind == 'all-gather'} == {devices}


def test_groups_that_cannot_be_read_are_an_error():
  text = TPU.replace('[2,4]<=[8]', '{{a}}')
  with pytest.raises(ValueError, match='unknown replica groups'):
    collective_bytes.collectives(text)


def test_the_text_of_other_platforms():
  found = collective_bytes.collectives(TPU)
  assert collective_bytes.by_kind(found) == {
    'all-gather': 3 * 2 * 16 * 4,
    'collective-permute': 2 * 16,
    'reduce-scatter': 3 * 2 * 4 * 2,
    'all-reduce': 2 * 7 / 8 * (3 + 1) * 4,
  }


SLICES = """
HloModule jit_step, is_scheduled=true, num_partitions=4

ENTRY %main (x: f32[8,16]) -> f32[8,16] {
  %x = f32[8,16]{1,0} parameter(0)
  %t = token[] after-all()
  %s = (f32[8,16]{1,0}, u32[], token[]) send(%x, %t), is_host_transfer=true, \
frontend_attributes={_xla_megascale_target="{1,2}x{0:3}",\
_xla_megascale_transfer_type="KIND"}
  %r = (f32[8,16]{1,0}, u32[], token[]) recv(%t), is_host_transfer=true, \
frontend_attributes={_xla_megascale_transfer_type="KIND"}
  %sd = token[] send-done(%s), is_host_transfer=true
  %rd = (f32[8,16]{1,0}, token[]) recv-done(%r), is_host_transfer=true
  %y = f32[8,16]{1,0} get-tuple-element(%rd), index=0
  ROOT %g = f32[8,64]{1,0} all-gather(%y), replica_groups=[1,4]<=[4]
}
"""


@pytest.mark.parametrize(
  ('kind', 'bytes_of_512'),
  # To 3 other slices, of 4: each 512; a quarter and the sum of one; a quarter.
  [
    ('ALL_GATHER', 3 * OWN),
    ('ALL_REDUCE', 2 * 3 / 4 * OWN),
    ('REDUCE_SCATTER', 3 / 4 * OWN),
    ('ALL_TO_ALL', 3 / 4 * OWN),
    ('COLLECTIVE_PERMUTE', OWN),
  ],
)
def test_what_goes_to_other_slices_is_apart(kind, bytes_of_512):
  program = program_text.Program(SLICES.replace('KIND', kind))
  found = collective_bytes.of_program(program, slices=4)
  assert [one.between for one in found] == [True, False]
  assert found[0].hidden
  # The program is one slice's: its four devices are those along fsdp.
  assert collective_bytes.by_axis(found, {'data': 1, 'fsdp': 4}) == {
    (kind.lower().replace('_', '-'), 'between slices'): bytes_of_512,
    ('all-gather', 'fsdp'): 3 * OWN,
  }


# As XLA writes it for the SparseCores of a TPU.
APART = """
%other (p: f32[8,16]) -> f32[32,16] {
  %p = f32[8,16]{1,0} parameter(0)
  ROOT %g = f32[32,16]{1,0} all-gather(%p), replica_groups=[1,4]<=[4]
}, execution_thread="sparsecore"

ENTRY %main (x: f32[8,16]) -> f32[32,16] {
  %x = f32[8,16]{1,0} parameter(0)
  %s = ((f32[8,16]), f32[32,16], u32[]) call-start(%x), to_apply=%other
  %y = f32[8,16]{1,0} copy(%x)
  %u = ((f32[8,16]), f32[32,16], u32[]) call-update(%s), to_apply=%other
  ROOT %d = f32[32,16]{1,0} call-done(%u)
}
"""


def test_where_a_collective_begins_and_where_it_is_awaited():
  (found,) = collective_bytes.of_program(program_text.Program(APART))
  walk = [at.instruction.name for at in program_text.Program(APART).walk()]
  assert (found.kind, found.sent) == ('all-gather', 3 * OWN)
  assert (walk[found.start], walk[found.end]) == ('s', 'd')
  assert found.hidden
  at_once = APART.replace('call-start', 'call').replace('%u)', '%s)')
  (found,) = collective_bytes.of_program(program_text.Program(at_once))
  assert (found.hidden, found.end) == (False, None)


def test_an_all_reduce_whose_slice_is_kept_is_a_reduce_scatter():
  text = """
%all-reduce-scatter.7 (p: f32[32,16]) -> f32[8,16] {
  %p = f32[32,16]{1,0} parameter(0)
  %r = f32[32,16]{1,0} all-reduce(%p), replica_groups=[1,4]<=[4], to_apply=%sum
  ROOT %d = f32[8,16]{1,0} dynamic-slice(%r, %i, %z), dynamic_slice_sizes={8,16}
}

ENTRY %main (x: f32[32,16]) -> f32[8,16] {
  %x = f32[32,16]{1,0} parameter(0)
  ROOT %f = f32[8,16]{1,0} fusion(%x), kind=kCustom, calls=%all-reduce-scatter.7
}
"""
  (found,) = collective_bytes.of_program(program_text.Program(text))
  assert (found.kind, found.sent, found.hidden) == (
    'reduce-scatter',
    3 * OWN,
    False,
  )
  other = text.replace('all-reduce-scatter.7', 'fused.7')
  (found,) = collective_bytes.of_program(program_text.Program(other))
  assert (found.kind, found.sent) == ('all-reduce', 2 * 3 * OWN)
  assert found.hidden
