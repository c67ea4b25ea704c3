import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from helpers import references, tiny
from jax.sharding import PartitionSpec

from moejax.moe.compute import grouped_matmuls
from moejax.moe.experts import EXPERTS, base
from moejax.moe.experts.swiglu import ClampedSwiGLU, SwiGLU
from moejax.moe.experts.two_matrix import TwoMatrix

E, D, F = 4, 5, 3
# Expert 1 has no rows; two rows belong to nobody.
SIZE_E = np.array([3, 0, 4, 1], np.int32)
EXPERT_R = [0, 0, 0, 2, 2, 2, 2, 3]
ROWS = 10
RNG = np.random.default_rng(0)
X_RD = (2 * RNG.normal(size=(ROWS, D))).astype(np.float32)
PULL_RD = RNG.normal(size=(ROWS, D)).astype(np.float32)
PULL_RD[len(EXPERT_R) :] = 0
MULTIPLY = grouped_matmuls.ReferenceMatmul()


def sigmoid(x):
  return 1 / (1 + np.exp(-x))


def gelu(x):
  return x / 2 * (1 + np.vectorize(math.erf)(x / math.sqrt(2)))


def clamped(limit, alpha, offset):
  def activate(gate_F, up_F):
    gate_F = np.minimum(gate_F, limit)
    up_F = np.clip(up_F, -limit, limit)
    return gate_F * sigmoid(alpha * gate_F) * (up_F + offset)

  return activate


# What each does to what w_in gives (gate and up for gated ones).
KINDS = {
  'swiglu': (SwiGLU(), lambda g, u: g * sigmoid(g) * u),
  'swiglu with bias': (SwiGLU(bias=True), lambda g, u: g * sigmoid(g) * u),
  'gpt-oss': (ClampedSwiGLU(), clamped(7, 1.702, 1)),
  'clamped hard': (ClampedSwiGLU(limit=0.5), clamped(0.5, 1.702, 1)),
  'v4': (
    ClampedSwiGLU(bias=False, limit=1.0, alpha=1.0, up_offset=0.0),
    clamped(1.0, 1, 0),
  ),
  'relu': (TwoMatrix(), lambda h: np.maximum(h, 0)),
  'relu with bias': (TwoMatrix(bias=True), lambda h: np.maximum(h, 0)),
  'gelu': (TwoMatrix(bias=True, activation='gelu'), gelu),
}
EACH = pytest.mark.parametrize('kind', sorted(KINDS))
# Gradients take two programs for each kind.
QUICK = 'swiglu', 'gpt-oss', 'relu with bias'
EACH_GRADIENT = pytest.mark.parametrize(
  'kind',
  [
    pytest.param(kind, marks=[] if kind in QUICK else [pytest.mark.soak])
    for kind in sorted(KINDS)
  ],
)


def weights(experts, num=E):
  shapes = jax.eval_shape(
    lambda: {
      name: param[...]
      for name, param in experts.init(jax.random.key(0), num, D, F, 1.0).items()
    }
  )
  return tiny.draw(shapes, seed=3, std=1.0)


def by_hand(activate, w, expert, x_D):
  """One row through one expert, in float64."""
  w = {name: np.asarray(x[expert], np.float64) for name, x in w.items()}
  if 'w_in_ED2F' in w:
    parts = [
      x_D @ w['w_in_ED2F'][:, i] + (w['b_in_E2F'][i] if 'b_in_E2F' in w else 0)
      for i in range(2)
    ]
  else:
    parts = [x_D @ w['w_in_EDF'] + w.get('b_in_EF', 0)]
  return activate(*parts) @ w['w_out_EFD'] + w.get('b_out_ED', 0)


@EACH
def test_rows_go_through_their_own_expert(kind):
  experts, activate = KINDS[kind]
  w = weights(experts)
  assert ('b_out_ED' in w) == experts.bias
  y_RD = np.asarray(
    jax.jit(experts, static_argnums=3)(w, X_RD, SIZE_E, MULTIPLY)
  )
  for row, expert in enumerate(EXPERT_R):
    want_D = by_hand(activate, w, expert, X_RD[row])
    np.testing.assert_allclose(y_RD[row], want_D, rtol=1e-4, atol=1e-5)
  np.testing.assert_array_equal(y_RD[len(EXPERT_R) :], 0)


@EACH
def test_dense_is_one_expert_for_all(kind):
  experts, activate = KINDS[kind]
  w = weights(experts, 1)
  y_RD = jax.jit(experts.dense)(w, X_RD)
  for row in range(ROWS):
    want_D = by_hand(activate, w, 0, X_RD[row])
    np.testing.assert_allclose(y_RD[row], want_D, rtol=1e-4, atol=1e-5)


@EACH_GRADIENT
def test_gradients_are_those_of_a_loop_over_experts(kind):
  """Each expert by `dense` on its own rows; nothing for one without rows."""
  experts, _ = KINDS[kind]
  w = weights(experts)

  def grouped(w, x_RD):
    return jnp.vdot(experts(w, x_RD, SIZE_E, MULTIPLY), PULL_RD)

  def loop(w, x_RD):
    total, start = 0.0, 0
    for e, size in enumerate(SIZE_E.tolist()):
      rows = slice(start, start + size)
      one = {name: leaf[e : e + 1] for name, leaf in w.items()}
      total += jnp.vdot(experts.dense(one, x_RD[rows]), PULL_RD[rows])
      start += size
    return total

  got, want = (
    jax.jit(jax.grad(f, argnums=(0, 1)))(w, X_RD) for f in (grouped, loop)
  )
  tiny.assert_close(got, want, rtol=1e-4, atol=1e-5)
  for leaf in got[0].values():
    np.testing.assert_array_equal(leaf[1], 0)
    assert (np.asarray(leaf[2]) != 0).any()


def test_gradient_against_differences():
  """Of gpt-oss's experts, every bias and a few weights, in their turn."""
  experts, activate = KINDS['clamped hard']
  w = weights(experts)

  def total(w):
    return sum(
      by_hand(activate, w, expert, X_RD[row]) @ PULL_RD[row]
      for row, expert in enumerate(EXPERT_R)
    )

  loss = lambda w: jnp.vdot(experts(w, X_RD, SIZE_E, MULTIPLY), PULL_RD)
  got = jax.jit(jax.grad(loss))(w)
  step = 1e-5
  for name, leaf in w.items():
    for place in range(0, leaf.size, 7):
      sides = []
      for sign in (1, -1):
        moved = np.array(leaf, np.float64)
        moved.flat[place] += sign * step
        sides.append(total({**w, name: moved}))
      want = (sides[0] - sides[1]) / (2 * step)
      np.testing.assert_allclose(
        np.asarray(got[name]).flat[place], want, rtol=1e-3, atol=1e-3
      )


def test_the_published_numbers_of_gpt_oss():
  """Gate 9 is cut to 7, up -8 to -7: 7 sigmoid(1.702 * 7) (-7 + 1) = -42."""
  got = ClampedSwiGLU().activate(jnp.array([[9.0, 1.0, -8.0, 0.0]]))
  np.testing.assert_allclose(got, [[-41.99972, 0.845795]], rtol=1e-5)


def test_names_and_axes():
  """Tensor parallelism needs the output's bias by this name."""
  for name, kind in EXPERTS.items():
    experts = kind()
    found = nnx.eval_shape(
      lambda experts=experts: experts.init(jax.random.key(0), 2, D, F, 1.0)
    )
    for leaf in found.values():
      axes = leaf.get_metadata()['axes']
      assert len(axes) == len(leaf.shape)
      assert axes[0] == 'expert'
    assert ('b_out_ED' in found) == getattr(experts, 'bias', False), name
  one = nnx.eval_shape(
    lambda: SwiGLU(bias=True).init(jax.random.key(0), 1, D, F, 1.0)
  )
  assert all(p.get_metadata()['axes'][0] == 'unsharded' for p in one.values())
  assert one['b_in_E2F'].get_metadata()['axes'][-1] == 'mlp'


def test_starting_weights():
  """Standard deviations; biases of zero."""
  key = jax.random.key(1)
  plain = SwiGLU(bias=True).init(key, 8, 64, 32, 0.02)
  for name in ('w_in_ED2F', 'w_out_EFD'):
    np.testing.assert_allclose(np.std(plain[name][...]), 0.02, rtol=0.02)
  for name in ('b_in_E2F', 'b_out_ED'):
    np.testing.assert_array_equal(plain[name][...], 0)
  sigma = TwoMatrix(sigma_init=0.5).init(key, 8, 64, 32, 0.02)
  np.testing.assert_allclose(
    np.std(sigma['w_in_EDF'][...]), 0.5 / math.sqrt(64), rtol=0.02
  )
  np.testing.assert_allclose(
    np.std(sigma['w_out_EFD'][...]), 0.5 / math.sqrt(8 * 32), rtol=0.02
  )


def test_the_expert_of_each_row():
  of = lambda size_E, rows: base.expert_of_rows(jnp.array(size_E), rows)
  np.testing.assert_array_equal(of([2, 0, 3], 6), [0, 0, 2, 2, 2, 3])
  np.testing.assert_array_equal(of([0, 0, 4], 4), [2, 2, 2, 2])
  np.testing.assert_array_equal(of([0, 0], 3), [2, 2, 2])
  np.testing.assert_array_equal(of([1, 0], 1), [0])


def test_the_compute_type_stays():
  """Weights may be float32 where activations are bfloat16."""
  for kind in ('gpt-oss', 'relu with bias'):
    experts, _ = KINDS[kind]
    w = jax.tree.map(jnp.asarray, weights(experts))
    x_RD = jnp.asarray(X_RD, jnp.bfloat16)
    run = lambda w, x_RD, experts=experts: experts(w, x_RD, SIZE_E, MULTIPLY)
    assert jax.eval_shape(run, w, x_RD).dtype == jnp.bfloat16


def test_a_biass_gradient_is_summed_in_float32():
  """1,000 rows of 1: bfloat16 would stop at 256."""
  b_EF = jnp.zeros((1, 2), jnp.float32)
  expert_R = jnp.zeros(1000, jnp.int32)
  total = lambda b_EF: jnp.sum(base.bias_of_rows(b_EF, expert_R, jnp.bfloat16))
  np.testing.assert_array_equal(jax.grad(total)(b_EF), [[1000, 1000]])


def test_inside_shard_map():
  """Each device has rows and group sizes of its own, gradients included."""
  experts = SwiGLU(bias=True)
  w = weights(experts)
  x_SRD = np.stack([X_RD, X_RD[::-1]])
  size_SE = np.stack([SIZE_E, SIZE_E[::-1]])

  def total(w, x_SRD, size_SE):
    y_RD = experts(w, x_SRD[0], size_SE[0], MULTIPLY)
    return jax.lax.psum(jnp.vdot(y_RD, PULL_RD), 'data')

  rows, whole = PartitionSpec('data'), PartitionSpec()
  split = jax.shard_map(
    total,
    mesh=tiny.mesh(2, data=2),
    in_specs=(whole, rows, rows),
    out_specs=whole,
  )
  got = jax.jit(jax.grad(split))(w, jnp.asarray(x_SRD), jnp.asarray(size_SE))
  one = lambda w: sum(
    jnp.vdot(experts(w, x_RD, size_E, MULTIPLY), PULL_RD)
    for x_RD, size_E in zip(x_SRD, size_SE, strict=True)
  )
  tiny.assert_close(got, jax.jit(jax.grad(one))(w), rtol=1e-4, atol=1e-5)


def test_the_slow_swiglu_of_other_tests_is_this_one():
  w = weights(SwiGLU())
  want_D = references.swiglu(w['w_in_ED2F'][2], w['w_out_EFD'][2], X_RD[4])
  y_RD = jax.jit(SwiGLU(), static_argnums=3)(w, X_RD, SIZE_E, MULTIPLY)
  np.testing.assert_allclose(y_RD[4], want_D, rtol=1e-4, atol=1e-5)


@EACH_GRADIENT
def test_dense_with_gate_and_up_apart_is_dense(kind):
  """As on TPU: the same output and gradients, but of two input weights."""
  experts, _ = KINDS[kind]
  w = {name: leaf[:1] for name, leaf in weights(experts).items()}

  def loss(w, change):
    return jnp.vdot(experts.dense(change(w), X_RD), PULL_RD)

  got, want = (
    jax.jit(jax.value_and_grad(loss), static_argnums=1)(w, change)
    for change in (base.split_gate_up, dict)
  )
  tiny.assert_close(got, want, rtol=1e-4, atol=1e-5)
  assert ('w_gate_EDF' in base.split_gate_up(w)) == experts.gated
  assert base.for_dense(w, 'cpu') is w
