import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

from moejax.moe.compute import (
  blocks,
  cpu_fused_swiglu,
  grouped_matmuls,
  permute,
)

T, K, E, D, F = 12, 3, 5, 6, 4
A = K * T
TOKEN_A = jnp.arange(A) % T
CUT = blocks.Blocks(block=2, ladder=(4, 2, 1))
FUSED = cpu_fused_swiglu.CpuFusedSwiglu(CUT)
NAMES = ('x_TD', 'weight_A', 'w_gate_up_EDF', 'w_down_EFD')
PULL_TD = jnp.asarray(np.random.default_rng(9).normal(size=(T, D)))


def _inputs(dtype=jnp.float32, seed=0):
  rng = np.random.default_rng(seed)
  shapes = ((T, D), (A,), (E, D, 2 * F), (E, F, D))
  x, weight, *w = (jnp.asarray(rng.normal(size=s), jnp.float32) for s in shapes)
  return x.astype(dtype), weight, *(z.astype(dtype) for z in w)


def _three_steps(x_TD, weight_A, token_A, grouping, w_gate_up, w_down):
  """The module's docstring: gather, reference matmuls, combine."""
  multiply = grouped_matmuls.ReferenceMatmul()
  x_RD = permute.gather(x_TD, token_A, grouping)
  z_RF = multiply(x_RD, w_gate_up, grouping.size_E)
  a_RF = jax.nn.silu(z_RF[:, :F]) * z_RF[:, F:]
  y_RD = multiply(a_RF, w_down, grouping.size_E)
  return permute.combine(y_RD, weight_A, token_A, grouping, x_TD.shape[0])


def _run(experts, multiple):
  """(inputs, token_A, expert_A) -> (out, gradients)."""

  def loss(inputs, token_A, expert_A):
    x_TD, weight_A, w_gate_up, w_down = inputs
    grouping = permute.group(expert_A, E, multiple)
    out_TD = experts(x_TD, weight_A, token_A, grouping, w_gate_up, w_down)
    return jnp.vdot(PULL_TD, out_TD.astype(jnp.float32)), out_TD

  return jax.jit(jax.value_and_grad(loss, has_aux=True))


FAST, SLOW = _run(FUSED, FUSED.row_multiple), _run(_three_steps, 1)


def _same(got, want):
  for name, a, b in zip(
    ('out_TD', *NAMES), _arrays(got), _arrays(want), strict=True
  ):
    np.testing.assert_allclose(
      a, b, atol=1e-5 * np.abs(b).max(), rtol=1e-5, err_msg=name
    )


def _arrays(found):
  (_, out_TD), grads = found
  return out_TD, *grads


def _choose(kind):
  """expert_A of a kind of routing."""
  rng = np.random.default_rng(1)
  ids = {
    'mixed, expert 2 empty': np.array([0, 1, 3, 4, E])[rng.integers(0, 5, A)],
    'one takes all': np.full(A, 3),
    'all nowhere': np.full(A, E),
  }
  return jnp.asarray(ids[kind], jnp.int32)


@pytest.mark.parametrize(
  'kind', ['mixed, expert 2 empty', 'one takes all', 'all nowhere']
)
def test_values_and_gradients_equal_three_steps(kind):
  args = (_inputs(), TOKEN_A, _choose(kind))
  _same(FAST(*args), SLOW(*args))


def test_any_list_also_a_token_twice_in_one_expert():
  token_A = jnp.asarray(np.random.default_rng(2).integers(0, T, A))
  token_A = token_A.at[:6].set(5)
  expert_A = _choose('mixed, expert 2 empty').at[:6].set(1)
  args = (_inputs(), token_A, expert_A)
  _same(FAST(*args), SLOW(*args))


def test_exact_zeros_where_nothing_flows():
  expert_A = _choose('mixed, expert 2 empty')
  token_A = jnp.where(TOKEN_A == 7, 8, TOKEN_A)  # nobody sends token 7
  (_, out_TD), grads = FAST(_inputs(), token_A, expert_A)
  dx_TD, dweight_A, dw_gate_up, dw_down = (np.asarray(g) for g in grads)
  assert not np.any(out_TD[7])
  assert not np.any(dx_TD[7])
  assert not np.any(dweight_A[np.asarray(expert_A) == E])
  assert not np.any(dw_gate_up[2])
  assert not np.any(dw_down[2])
  assert np.all(dweight_A[np.asarray(expert_A) < E])


def test_bfloat16_stays_near_float32():
  expert_A = _choose('mixed, expert 2 empty')
  inputs = _inputs(jnp.bfloat16)
  exact = jax.tree.map(lambda x: x.astype(jnp.float32), inputs)
  (_, got_TD), grads = FAST(inputs, TOKEN_A, expert_A)
  (_, want_TD), want_grads = SLOW(exact, TOKEN_A, expert_A)
  assert got_TD.dtype == jnp.bfloat16
  for a, b, x in zip(grads, want_grads, inputs, strict=True):
    assert a.dtype == x.dtype
    # Rounded to 8 bits, by at most 2^-9 of itself, half a dozen times.
    error = np.abs(np.asarray(a, np.float32) - b).max()
    assert error < 2**-6 * np.abs(b).max()
  error = np.abs(np.asarray(got_TD, np.float32) - want_TD).max()
  assert error < 2**-6 * np.abs(want_TD).max()


def test_under_scan_and_checkpoint():
  expert_A = _choose('mixed, expert 2 empty')
  x_TD, weight_A, *w = _inputs()
  w_stacked = tuple(jnp.stack([z, z[::-1]]) / 2 for z in w)

  def loss(experts, multiple, x_TD, w_stacked):
    grouping = permute.group(expert_A, E, multiple)

    @jax.checkpoint
    def layer(x_TD, w):
      return x_TD + experts(x_TD, weight_A, TOKEN_A, grouping, *w), None

    return jnp.sum(jnp.sin(jax.lax.scan(layer, x_TD, w_stacked)[0]))

  grad = jax.jit(jax.grad(loss, argnums=(2, 3)), static_argnums=(0, 1))
  got = jax.tree.leaves(grad(FUSED, FUSED.row_multiple, x_TD, w_stacked))
  want = jax.tree.leaves(grad(_three_steps, 1, x_TD, w_stacked))
  for a, b in zip(got, want, strict=True):
    np.testing.assert_allclose(a, b, atol=3e-4 * np.abs(b).max())


def test_inside_shard_map_equals_one_device():
  mesh = jax.make_mesh(
    (2,), ('data',), axis_types=(AxisType.Auto,), devices=jax.devices()[:2]
  )
  expert_A = _choose('mixed, expert 2 empty')

  def local(x_TD, weight_KT, expert_KT, w_gate_up, w_down):
    num_tokens = x_TD.shape[0]
    grouping = permute.group(expert_KT.reshape(-1), E, FUSED.row_multiple)
    token_A = jnp.arange(K * num_tokens) % num_tokens
    weight_A = weight_KT.reshape(-1)
    return FUSED(x_TD, weight_A, token_A, grouping, w_gate_up, w_down)

  tokens, assignments = P('data'), P(None, 'data')
  sharded = jax.shard_map(
    local,
    mesh=mesh,
    in_specs=(tokens, assignments, assignments, P(), P()),
    out_specs=tokens,
  )

  def loss(inputs):
    x_TD, weight_A, *w = inputs
    out_TD = sharded(x_TD, weight_A.reshape(K, T), expert_A.reshape(K, T), *w)
    return jnp.vdot(PULL_TD, out_TD), out_TD

  got = jax.jit(jax.value_and_grad(loss, has_aux=True))(_inputs())
  _same(got, FAST(_inputs(), TOKEN_A, expert_A))
