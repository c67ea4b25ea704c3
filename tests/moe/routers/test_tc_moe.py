import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import dense, references, tiny

from moejax.core import errors
from moejax.moe.routers.tc_moe import TCMoE

RAW = np.array([[2.0, 1, 3.2, 1.5, 11], [0, 2, 1.5, 2.5, 14]])


def gates(routing):
  return dense.numpy_gates(routing)


def reference(raw, router, num_experts):
  """One token: the sum over its k choices, term by term."""
  offset = [0] * num_experts + [-1] * num_experts + [-10] * router.num_null
  p = references.softmax([x + o for x, o in zip(raw, offset, strict=True)])
  chosen = references.top(p, router.k)
  null = sum(p[2 * num_experts :])
  below = null + sum(p[c] for c in chosen if c < 2 * num_experts)
  gate_E = np.zeros(num_experts)
  for c in chosen:
    if c < num_experts:
      gate_E[c] += p[c] / below
    elif c < 2 * num_experts:
      gate_E[c - num_experts] -= p[c] / below
  return gate_E


def test_the_worked_example():
  """Token 0 chooses -0 and +0, token 1 null and +1; see the docstring."""
  routing = tiny.route(TCMoE(k=2, num_null=1), tiny.router_input(RAW))
  np.testing.assert_allclose(
    gates(routing), [[-0.0855, 0], [0, 0.1192]], atol=6e-5
  )
  np.testing.assert_array_equal(routing.expert_A, [0, 2, 2, 1])
  np.testing.assert_allclose(
    routing.extra['folded_TE'], [[0.6985, 0.1859], [0.0384, 0.1717]], atol=2e-4
  )
  np.testing.assert_allclose(
    routing.extra['null_T'], [0.1157, 0.7899], atol=5e-5
  )
  np.testing.assert_array_equal(routing.extra['copies_TE'], [[2, 0], [0, 1]])
  np.testing.assert_allclose(routing.prob_TE.sum(axis=1), 1, rtol=1e-6)
  np.testing.assert_allclose(
    routing.prob_TE[1], [0.0384 / 0.2101, 0.1717 / 0.2101], atol=5e-4
  )


@pytest.mark.parametrize(('k', 'num_null'), [(1, 1), (4, 3), (8, 2), (6, 0)])
def test_random_logits_against_the_sum_over_choices(k, num_null):
  router = TCMoE(k=k, num_null=num_null)
  rng = np.random.default_rng(k)
  raw_TC = rng.normal(size=(30, router.num_logits(3)))
  raw_TC[:, 6:] += 10
  routing = tiny.route(router, tiny.router_input(raw_TC))
  want = np.stack([reference(raw, router, 3) for raw in raw_TC])
  np.testing.assert_allclose(gates(routing), want, atol=1e-5)
  # Both signs are one row: nobody is sent to an expert twice.
  sent_TK = np.asarray(routing.expert_A).reshape(k, 30).T
  for sent_K in sent_TK:
    real = [e for e in sent_K if e < 3]
    assert len(real) == len(set(real))


def test_null_choices_cost_nothing_and_take_weight_from_the_others():
  """With null likely, the one real choice has less than its weight alone."""
  likely = RAW + np.array([0, 0, 0, 0, 5])
  routing = tiny.route(TCMoE(k=2, num_null=1), tiny.router_input(likely))
  assert (np.asarray(routing.expert_A) < 2).sum() == 2
  assert (np.abs(gates(routing)).sum(axis=1) < 0.2).all()


def test_a_bias_counts_for_both_signs_and_stays_out_of_the_weights():
  """Expert 1 is brought in with both signs: +1 and -1, of token 0."""
  bias_E = np.array([0, 1], np.float32)
  routing = tiny.route(
    TCMoE(k=2, num_null=1), tiny.router_input(RAW, selection_bias_E=bias_E)
  )
  np.testing.assert_array_equal(routing.expert_A[:2], [1, 1])
  below = 0.1157 + 0.0702 + 0.1157
  np.testing.assert_allclose(
    routing.weight_A[0], (0.1157 - 0.0702) / below, atol=2e-4
  )


def test_huge_logits_and_padding_have_finite_gradients():
  raw_TC = np.array([[0, 0, 0, 0, 1e4], [1e4, -1e4, 1e4, 0, 0], [-1e4] * 5])
  whole = tiny.router_input(raw_TC, valid_T=[True, True, False])

  def pulled(logits_TE):
    routing = TCMoE(k=2, num_null=1)(
      dataclasses.replace(whole, logits_TE=logits_TE)
    )
    return jnp.vdot(routing.weight_A, jnp.arange(6.0)) + routing.prob_TE[0, 0]

  value, gradient = jax.jit(jax.value_and_grad(pulled))(whole.logits_TE)
  assert np.isfinite(value)
  assert np.isfinite(gradient).all()
  np.testing.assert_array_equal(gradient[2], 0)


def test_bad_fields():
  with pytest.raises(errors.InputError) as error:
    TCMoE(k=11).check(4)
  assert str(error.value) == (
    'router.k=11, but tc_moe has 10 choices with 4 experts; use 1 to 10'
  )
