"""FLOPs, bytes and trips read from compiled programs, against hand-work."""

import pathlib
import re

import jax
import jax.numpy as jnp
import pytest

from moejax.parallel import program_text
from moejax.plan import program_cost

T, D, F, LAYERS = 8, 16, 32, 5


def _program(f, *shapes):
  arrays = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]
  return program_text.Program(jax.jit(f).lower(*arrays).compile().as_text())


def _deep(x, ws):
  def layer(x, w):
    return jnp.tanh(x @ w) @ w.T, None

  return jax.lax.scan(layer, x, ws)[0]


@pytest.mark.parametrize('layers', [2, LAYERS])
def test_a_loop_counts_as_often_as_it_runs(layers):
  found = program_cost.of_program(_program(_deep, (T, D), (layers, D, F)))
  assert found.flops == layers * 2 * 2 * T * D * F
  assert found.unknown_loops == 0


def test_loops_in_loops_multiply():
  def f(x, ws):
    def more(x, _):
      return _deep(x, ws), None

    return jax.lax.scan(more, x, None, length=3)[0]

  found = program_cost.of_program(_program(f, (T, D), (LAYERS, D, F)))
  assert found.flops == 3 * LAYERS * 2 * 2 * T * D * F


def test_a_loop_without_a_known_number_of_trips_is_said():
  def f(x, w):
    return jax.lax.while_loop(lambda x: jnp.sum(x) < 100.0, lambda x: x @ w, x)

  found = program_cost.of_program(_program(f, (T, D), (D, D)))
  assert found.unknown_loops == 1
  assert found.flops == 2 * T * D * D


def test_what_is_in_a_branch_is_counted_apart():
  def f(x, w):
    return jax.lax.cond(jnp.sum(x) > 0, lambda: x @ w, lambda: x)

  found = program_cost.of_program(_program(f, (T, D), (D, D)))
  assert (found.flops, found.optional_flops) == (0, 2 * T * D * D)


def test_a_batched_product():
  found = program_cost.of_program(
    _program(
      lambda a, b: jnp.einsum('bij,bjk->bik', a, b), (3, 4, 5), (3, 5, 6)
    )
  )
  assert found.flops == 2 * 3 * 4 * 5 * 6


# As XLA for TPU writes it: a loop of 7 trips around a product and a kernel.
TPU = (pathlib.Path(__file__).parent / 'tpu_program.txt').read_text()
ESTIMATE = re.search(r'backend_config=\{"custom_call.*', TPU)[0]


def test_a_text_for_tpu():
  found = program_cost.of_program(program_text.Program(TPU))
  assert found.flops == 7 * 2 * 8 * 16 * 32
  assert found.cycles == 7 * 1000
  assert (found.kernel_flops, found.kernel_bytes) == (7 * 5000, 7 * 600)
  # x goes in and y comes out of HBM; the weights are in fast memory, S(1).
  assert found.num_bytes == 7 * 2 * (8 * 16 + 8 * 32)


def test_a_kernel_s_estimate_in_another_order():
  """So it stands in what the compiler writes, sorted by name."""
  text = TPU.replace('"flops":"5000",', '').replace(
    '"bytes_accessed":"600"', '"bytes_accessed":"600","flops":"5000"'
  )
  found = program_cost.of_program(program_text.Program(text))
  assert (found.kernel_flops, found.kernel_bytes) == (7 * 5000, 7 * 600)


@pytest.mark.parametrize('name', ['gmm', 'tgmm', 'grouped_swiglu'])
def test_rows_of_no_expert_are_skipped(name):
  """Of four times the rows that count, a quarter of the stated cost."""
  program = program_text.Program(TPU.replace('%gmm.3', f'%{name}.3'))
  found = program_cost.of_program(program, row_overhead=4)
  assert (found.kernel_flops, found.kernel_bytes) == (7 * 1250, 7 * 150)
  assert found.flops == program_cost.of_program(program).flops
  other = program_text.Program(TPU.replace('%gmm.3', '%another.3'))
  assert program_cost.of_program(other, row_overhead=4).kernel_flops == 7 * 5000


ASYNC = """
%apart (a: f32[100]) -> f32[100] {
  %a = f32[100]{0} parameter(0)
  ROOT %c = f32[100]{0} copy(%a)
}

ENTRY %main (x: f32[100]) -> f32[100] {
  %x = f32[100]{0} parameter(0)
  %s = ((f32[100]{0}), f32[100]{0}, u32[]) async-start(%x), calls=%apart
  %u = ((f32[100]{0}), f32[100]{0}, u32[]) async-update(%s, %x)
  ROOT %d = f32[100]{0} async-done(%u)
}
"""


@pytest.mark.parametrize('kind', ['async', 'call', 'custom-call'])
def test_what_runs_asynchronously_counts_once(kind):
  text = ASYNC.replace(' async-', f' {kind}-')
  if kind == 'custom-call':
    text = text.replace('calls=%apart', 'called_computations={%apart}')
  found = program_cost.of_program(program_text.Program(text))
  assert found.num_bytes == found.rest_bytes == 2 * 4 * 100


def test_a_trip_count_that_is_handed_in_from_outside():
  text = TPU.replace(
    '%n = s32[]{:T(128)} constant(7)',
    '%n = s32[]{:T(128)} get-tuple-element(%p), index=2',
  )
  text = text.replace('tuple(%zero, %x0)', 'tuple(%zero, %x0, %eleven)')
  text = text.replace(
    '  %zero', '  %eleven = s32[]{:T(128)} constant(11)\n  %zero'
  )
  found = program_cost.of_program(program_text.Program(text))
  assert found.cycles == 11 * 1000


def test_an_attention_kernel_by_arithmetic():
  # Rows, heads, tokens, width: 10 of 16 blocks of 1024 are visited.
  layout = (
    'operand_layout_constraints={s8[1,4,4]{2,1,0}, '
    'bf16[4,2,4096,128]{3,2,1,0}, bf16[4,2,4096,128]{3,2,1,0}, '
    'bf16[4,2,4096,128]{3,2,1,0}, f32[4,2,1,4096]{3,2,1,0}}, '
    'frontend_attributes={}'
  )
  text = TPU.replace('%gmm.3', '%splash_mha_dq_segmented.1')
  text = text.replace(ESTIMATE, layout)
  found = program_cost.of_program(program_text.Program(text))
  products = 3 * 2 * (4 * 2) * 4096 * 4096 * 128
  assert found.kernel_flops == 7 * products * 10 / 16
  assert found.kernel_bytes == 7 * (
    16 + 3 * 2 * 4 * 2 * 4096 * 128 + 4 * 4 * 2 * 4096
  )


def test_queries_of_a_piece_see_the_keys_of_the_row():
  # 1,024 queries and 4,096 keys: 4 blocks, each against 10 / 16 of its row.
  layout = (
    'operand_layout_constraints={s8[1,1,4]{2,1,0}, '
    'bf16[4,2,1024,128]{3,2,1,0}, bf16[4,2,4096,128]{3,2,1,0}, '
    'bf16[4,2,4096,128]{3,2,1,0}}, '
    'frontend_attributes={}'
  )
  text = TPU.replace('%gmm.3', '%splash_mha_fwd_segmented.1')
  text = text.replace(ESTIMATE, layout)
  found = program_cost.of_program(program_text.Program(text))
  products = 2 * 2 * (4 * 2) * 1024 * 4096 * 128
  assert found.kernel_flops == 7 * products * 10 / 16


@pytest.mark.parametrize(
  ('name', 'of_keys', 'of_values'),
  [('fwd', 1, 1), ('dq', 2, 1), ('dkv', 2, 2)],
)
def test_values_may_be_narrower_than_keys(name, of_keys, of_values):
  # Latent heads of 192 count as the 256 that the matrix units take, their
  # values as 128. Blocks have 512 tokens: 36 of 64 are visited.
  layout = (
    'operand_layout_constraints={bf16[4,2,4096,192]{3,2,1,0}, '
    'bf16[4,2,4096,192]{3,2,1,0}, bf16[4,2,4096,128]{3,2,1,0}, '
    's32[4,4096,128]{2,1,0}}, frontend_attributes={}'
  )
  text = TPU.replace('%gmm.3', f'%splash_mha_{name}_segmented.1')
  text = text.replace(ESTIMATE, layout)
  found = program_cost.of_program(program_text.Program(text))
  width = of_keys * 256 + of_values * 128
  products = 2 * (4 * 2) * 4096 * 4096 * width
  assert found.kernel_flops == 7 * products * 36 / 64


# Attention of two rows of 4,096 tokens, with latent heads.
LATENT = """HloModule step, is_scheduled=true

ENTRY %main (q: bf16[2,4096,8,192]) -> bf16[2,4096,8,128] {
  %q = bf16[2,4096,8,192]{3,2,1,0} parameter(0)
  %k = bf16[2,4096,2,192]{3,2,1,0} parameter(1)
  %v = bf16[2,4096,2,128]{3,2,1,0} parameter(2)
  %segment = s32[2,4096]{1,0} parameter(3)
  ROOT %out = (bf16[2,4096,8,128]{3,2,1,0}, f32[2,8,4096]{2,1,0}) custom-call(\
%q, %k, %v, %segment), custom_call_target="__gpu$xla.gpu.triton", \
metadata={op_name="jit(step)/jvp(NAME)/pallas_call"}
}
"""


@pytest.mark.parametrize(
  ('kernel', 'features'),
  [
    ('moejax_triton_attention', 192 + 128),
    ('moejax_triton_attention_dq', 192 + 128 + 192),
    ('moejax_triton_attention_dkv', 192 + 128 + 192 + 128),
  ],
)
def test_attention_on_gpus_by_arithmetic(kernel, features):
  text = LATENT.replace('NAME', kernel)
  found = program_cost.of_program(program_text.Program(text), 4.0)
  # 64 blocks of 64 queries, the first of which meets one block of keys.
  pairs = (64 * 65 // 2) * 64 * 64
  (call,) = found.kernels
  assert (call.name, call.flops) == (kernel, 2 * 8 * 2 * pairs * features)
  # Once: queries, keys, values, segments; the output, and its sums.
  assert call.num_bytes == 2 * 4096 * (
    2 * (8 * 192 + 2 * 192 + 2 * 128) + 4 + 2 * 8 * 128 + 4 * 8
  )


@pytest.mark.parametrize(
  ('window', 'labels', 'shapes', 'products'),
  [
    # [8,16] x [16,32].
    ('', 'bf_io->bf', ((8, 16), (16, 32), (8, 32)), 8 * 16 * 32),
    # A batch of 4 products [8,16] x [16,32] as a window: each place of the
    # output meets one place of the input.
    (
      ', window={size=4 stride=3 pad=0_0 lhs_dilate=4}',
      '0bf_0io->0bf',
      ((4, 8, 16), (4, 16, 32), (4, 8, 32)),
      4 * 8 * 16 * 32,
    ),
    # A plain window of 3 on 5 places with a border of 1: 13 meetings.
    (
      ', window={size=3 pad=1_1}',
      '0bf_0io->0bf',
      ((5, 8, 16), (3, 16, 32), (5, 8, 32)),
      13 * 8 * 16 * 32,
    ),
  ],
)
def test_products_written_as_convolutions(window, labels, shapes, products):
  left, right, out = (','.join(map(str, shape)) for shape in shapes)
  text = (
    'ENTRY %main (a: f32[1]) -> f32[1] {\n'
    f'  %a = f32[{left}]{{1,0}} parameter(0)\n'
    f'  %b = f32[{right}]{{1,0}} parameter(1)\n'
    f'  ROOT %c = f32[{out}]{{1,0}} convolution(%a, %b){window}, '
    f'dim_labels={labels}\n}}\n'
  )
  found = program_cost.of_program(program_text.Program(text))
  assert found.flops == 2 * products
