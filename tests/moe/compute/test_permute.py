import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from moejax.moe.compute import permute

T, K, E, D = 7, 3, 5, 4
A = K * T
TOKEN_A = jnp.arange(A) % T


def _some_experts(seed=0):
  """Expert 2 is empty, some assignments go nowhere."""
  ids = np.random.default_rng(seed).integers(0, E + 1, A)
  return jnp.asarray(np.where(ids == 2, 3, ids), jnp.int32)


def _group_slowly(expert_A, multiple):
  """(row_A, assignment_R without its tail, size_E), one at a time."""
  row_A, rows, size_E = {}, [], []
  for expert in range(E):
    first = len(rows)
    for a, chosen in enumerate(expert_A):
      if chosen == expert:
        row_A[a] = len(rows)
        rows.append(a)
    while len(rows) % multiple:
      rows.append(A)
    size_E.append(len(rows) - first)
  return row_A, rows, size_E


def test_example_of_the_docstring():
  grouping = permute.group(jnp.array([0, 1, 1, 1, 0, 1]), 2, 2)
  assert grouping.row_A.tolist() == [0, 2, 3, 4, 1, 5]
  assert grouping.assignment_R.tolist() == [0, 4, 1, 2, 3, 5, 6, 6]
  assert grouping.size_E.tolist() == [2, 4]


# One shape each, so that one program is compiled for all examples of a shape.
_group = jax.jit(permute.group, static_argnums=(1, 2))
_experts = st.lists(st.integers(0, E), min_size=A, max_size=A)


@given(expert_A=_experts, multiple=st.sampled_from([1, 2, 8]))
@example(expert_A=[4] * A, multiple=2)  # one takes all
@example(expert_A=[E] * A, multiple=8)  # all nowhere
def test_group_equals_a_slow_loop(expert_A, multiple):
  grouping = _group(jnp.array(expert_A, jnp.int32), E, multiple)
  row_A, rows, size_E = _group_slowly(expert_A, multiple)
  R = permute.num_rows(A, E, multiple)
  assert grouping.assignment_R.tolist() == rows + [A] * (R - len(rows))
  assert grouping.row_A.tolist() == [row_A.get(a, R) for a in range(A)]
  assert grouping.size_E.tolist() == size_E


@functools.partial(jax.jit, static_argnums=(3,))
def _through(x_TD, expert_A, weight_A, per_token):
  """To the experts, which change nothing, and back."""
  grouping = permute.group(expert_A, E, 4)
  x_RD = permute.gather(x_TD, TOKEN_A, grouping, per_token)
  return permute.combine(x_RD, weight_A, TOKEN_A, grouping, T, per_token)


@given(
  expert_A=_experts,
  seed=st.integers(0, 2**16),
  per_token=st.sampled_from([None, K]),
)
def test_rows_come_back_to_their_tokens(expert_A, seed, per_token):
  """Gather and combine are inverse: what is left is the sum of the weights."""
  rng = np.random.default_rng(seed)
  x_TD = rng.normal(size=(T, D)).astype(np.float32)
  weight_A = rng.normal(size=A).astype(np.float32)
  expert_A = np.array(expert_A, np.int32)
  out_TD = _through(x_TD, expert_A, weight_A, per_token)
  kept_KT = np.where(expert_A < E, weight_A, 0.0).reshape(K, T)
  np.testing.assert_allclose(
    out_TD, kept_KT.sum(axis=0)[:, None] * x_TD, atol=1e-5
  )


def test_no_routing_needs_more_than_num_rows():
  assert permute.num_rows(A, E, 1) == A
  # The worst case: one row in each of four experts, the rest in the fifth.
  worst = jnp.array([0, 1, 2, 3] + [4] * (A - 4))
  used = int(permute.group(worst, E, 8).size_E.sum())
  assert used == 4 * 8 + 24 <= permute.num_rows(A, E, 8)


def test_lists_too_long_for_a_packed_key_are_sorted_otherwise():
  # 2^15 assignments to one of 2^16 experts: expert * A + index needs 32 bits.
  A, E = 2**15, 2**16
  expert_A = np.random.default_rng(0).integers(0, E + 1, A).astype(np.int32)
  row_A = jax.jit(permute.group, static_argnums=(1, 2))(expert_A, E, 1).row_A
  order_A = np.argsort(expert_A, kind='stable')
  used = int(np.sum(expert_A < E))
  np.testing.assert_array_equal(row_A[order_A[:used]], np.arange(used))


@pytest.mark.parametrize('per_token', [None, K])
def test_gather_and_combine_equal_a_slow_loop(per_token):
  expert_A = _some_experts()
  grouping = permute.group(expert_A, E, 4)
  rng = np.random.default_rng(0)
  shapes = ((T, D), (grouping.assignment_R.size, D), (A,))
  x_TD, y_RD, weight_A = (
    jnp.asarray(rng.normal(size=shape), jnp.float32) for shape in shapes
  )

  x_RD = permute.gather(x_TD, TOKEN_A, grouping, per_token)
  for row, a in enumerate(grouping.assignment_R.tolist()):
    want = np.zeros(D) if a == A else x_TD[a % T]
    np.testing.assert_array_equal(x_RD[row], want)

  out_TD = permute.combine(y_RD, weight_A, TOKEN_A, grouping, T, per_token)
  want_TD = np.zeros((T, D))
  for a in range(A):
    if expert_A[a] < E:
      want_TD[a % T] += weight_A[a] * y_RD[grouping.row_A[a]]
  np.testing.assert_allclose(out_TD, want_TD, atol=1e-5)


def _there_and_back(per_token, expert_A):
  """A scalar of everything, and its gradient to tokens, rows and weights."""

  def loss(x_TD, scale_R, weight_A):
    grouping = permute.group(expert_A, E, 4)
    x_RD = permute.gather(x_TD, TOKEN_A, grouping, per_token)
    y_RD = jnp.sin(x_RD) * scale_R[:, None]
    out_TD = permute.combine(y_RD, weight_A, TOKEN_A, grouping, T, per_token)
    return jnp.sum(out_TD**2)

  return jax.value_and_grad(loss, argnums=(0, 1, 2))


def _inputs():
  rng = np.random.default_rng(1)
  R = permute.num_rows(A, E, 4)
  return tuple(
    jnp.asarray(rng.normal(size=shape), jnp.float32)
    for shape in ((T, D), (R,), (A,))
  )


def test_gather_only_gradients_equal_those_of_jax():
  expert_A = _some_experts()
  fast = jax.jit(_there_and_back(K, expert_A))(*_inputs())
  plain = jax.jit(_there_and_back(None, expert_A))(*_inputs())
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5),
    fast,
    plain,
  )
  dweight_A = fast[1][2]
  assert not np.any(np.asarray(dweight_A)[np.asarray(expert_A) == E])


def test_forward_and_backward_scatter_no_vectors():
  expert_A = _some_experts()
  text = str(jax.make_jaxpr(_there_and_back(K, expert_A))(*_inputs()))
  plain = str(jax.make_jaxpr(_there_and_back(None, expert_A))(*_inputs()))
  assert f'f32[{T},{D}] = scatter-add' in plain
  assert f'f32[{T},{D}] = scatter-add' not in text
  assert not [
    line for line in text.splitlines() if 'scatter' in line and 'f32' in line
  ]


def test_bfloat16_sums_in_float32():
  # Three times 1/3 of 1 + 2^-7 in bfloat16 would lose the last bit.
  expert_A = jnp.zeros((3,), jnp.int32)
  grouping = permute.group(expert_A, 1, 1)
  y_RD = jnp.full((3, 1), 1 + 2**-7, jnp.bfloat16)
  for per_token in (None, 3):
    out_TD = permute.combine(
      y_RD,
      jnp.full((3,), 1 / 3),
      jnp.zeros((3,), jnp.int32),
      grouping,
      1,
      per_token,
    )
    assert out_TD.dtype == jnp.bfloat16
    assert float(out_TD[0, 0]) == 1 + 2**-7
