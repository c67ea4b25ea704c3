import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import dense, references, tiny

from moejax.core import errors
from moejax.moe.routers.hierarchical import Hierarchical
from moejax.moe.scorers import SCORERS

# Distances of three tokens to four experts: routers.md, example of A10.
Z0 = np.array([[1.0, 0], [1, 1], [0, 2]])
W0 = np.array([[1.0, 0], [0, 1], [-1, 0], [1, -1]])
NEAR_TE = -np.linalg.norm(Z0[:, None] - W0, axis=-1)


def given(logits_TE, outer_TG, **more):
  return tiny.router_input(
    logits_TE,
    extra_scores={'outer': jnp.asarray(outer_TG, jnp.float32)},
    **more,
  )


def gates(routing):
  return dense.numpy_gates(routing)


def random_input(num_experts, groups, **more):
  rng = np.random.default_rng(num_experts)
  return given(
    rng.normal(size=(30, num_experts)), rng.normal(size=(30, groups)), **more
  )


def reference(router, outer_G, inner_E):
  """One token, group by group."""
  num = len(inner_E)
  members = [
    [e for e in range(num) if e * router.groups // num == g]
    for g in range(router.groups)
  ]
  gate_E, prob_E = np.zeros(num), np.zeros(num)
  best = references.top(outer_G, router.k_outer)
  outer = references.softmax([outer_G[g] for g in best])
  for weight, g in zip(outer, best, strict=True):
    scores = [inner_E[e] for e in members[g]]
    kept = references.top(scores, router.k_inner)
    inner = references.softmax([scores[i] for i in kept])
    for i, share in zip(kept, inner, strict=True):
      gate_E[members[g][i]] = weight * share
  for g, p in enumerate(references.softmax(outer_G)):
    for e, q in zip(
      members[g], references.softmax(inner_E[members[g]]), strict=True
    ):
      prob_E[e] = p * q
  return gate_E, prob_E


def test_the_worked_example_dense_with_laplace_at_both_levels():
  """Outer centres are those of experts 0 and 1."""
  want = [
    [0.6471, 0.1573, 0.0526, 0.1430],
    [0.25, 0.25, 0.2206, 0.2794],
    [0.0507, 0.1744, 0.5551, 0.2198],
  ]
  routing = tiny.route(Hierarchical(), given(NEAR_TE, NEAR_TE[:, :2]))
  np.testing.assert_allclose(gates(routing), want, atol=6e-5)
  np.testing.assert_allclose(routing.prob_TE, want, atol=6e-5)


def test_sparse_by_hand():
  """The docstring's example: one group, so its weight is 1."""
  router = Hierarchical(groups=2, k_outer=1, k_inner=2)
  routing = tiny.route(router, given([[2, 1, 5, 0]], [[1, 0]]))
  np.testing.assert_array_equal(routing.expert_A, [0, 1])
  np.testing.assert_allclose(routing.weight_A, [0.7311, 0.2689], atol=5e-5)
  np.testing.assert_allclose(routing.extra['outer_TG'], [[1, 0]])


@pytest.mark.parametrize(
  ('num_experts', 'groups', 'k_outer', 'k_inner'),
  [(15, 3, 2, 4), (5, 2, 2, 2), (7, 3, 1, 2), (6, 1, 1, 2), (6, 6, 2, 1)],
)
def test_random_scores_against_a_loop(num_experts, groups, k_outer, k_inner):
  """Groups that are not equally large among them."""
  router = Hierarchical(groups=groups, k_outer=k_outer, k_inner=k_inner)
  router.check(num_experts)
  whole = random_input(num_experts, groups)
  routing = tiny.route(router, whole)
  want = [
    reference(router, *x)
    for x in zip(
      np.asarray(whole.extra_scores['outer'], np.float64),
      np.asarray(whole.logits_TE, np.float64),
      strict=True,
    )
  ]
  gate_TE, prob_TE = (np.stack(x) for x in zip(*want, strict=True))
  np.testing.assert_allclose(gates(routing), gate_TE, atol=1e-6)
  np.testing.assert_allclose(routing.prob_TE, prob_TE, atol=1e-6)
  assert len(routing.expert_A) == 30 * router.experts_per_token
  assert ((gates(routing) > 0).sum(axis=1) == router.experts_per_token).all()
  outer_TE = routing.extra['outer_TG'][
    :, np.arange(num_experts) * groups // num_experts
  ]
  np.testing.assert_allclose(
    outer_TE * routing.extra['inner_TE'], gate_TE, atol=1e-6
  )
  np.testing.assert_allclose(routing.extra['gate_TE'], gate_TE, atol=1e-6)


def test_a_bias_moves_the_choice_inside_a_group_alone():
  bias_E = np.array([0, 0, 1, 0, 0, 1], np.float32)
  router = Hierarchical(groups=2, k_outer=1, k_inner=1)
  plain = tiny.route(router, random_input(6, 2))
  routing = tiny.route(router, random_input(6, 2, selection_bias_E=bias_E))
  group = lambda routing: np.asarray(routing.expert_A) // 3
  np.testing.assert_array_equal(group(routing), group(plain))
  assert (np.asarray(routing.expert_A) % 3 == 2).all()
  np.testing.assert_allclose(routing.weight_A, 1)


def test_gradients_are_finite_and_reach_both_levels():
  huge = given([[1e4, -1e4, 0, 0], [0.0] * 4], [[-1e4, 1e4], [0, 0]])
  router = Hierarchical(groups=2, k_outer=2, k_inner=1)

  def pulled(outer_TG, logits_TE):
    routing = router(
      dataclasses.replace(
        huge, logits_TE=logits_TE, extra_scores={'outer': outer_TG}
      )
    )
    return jnp.vdot(routing.weight_A, jnp.arange(4.0)) + routing.prob_TE[1, 0]

  outer, inner = jax.jit(jax.grad(pulled, (0, 1)))(
    huge.extra_scores['outer'], huge.logits_TE
  )
  assert np.isfinite(outer).all()
  assert np.isfinite(inner).all()
  assert np.abs(outer[1]).min() > 0
  assert np.abs(inner[1, :2]).min() > 0


def test_padding_goes_nowhere():
  valid_T = np.arange(30) % 3 > 0
  routing = tiny.route(Hierarchical(), random_input(5, 2, valid_T=valid_T))
  assert ((gates(routing) > 0).sum(axis=1) == 4 * valid_T).all()


def test_the_outer_head_has_a_score_for_each_group():
  laplace = SCORERS['laplace']()
  router = Hierarchical(outer=laplace, groups=3)
  assert router.extra_scorers(15) == {'outer': (laplace, 3)}


def test_bad_fields():
  with pytest.raises(errors.InputError) as error:
    Hierarchical(groups=3, k_inner=2).check(5)
  assert str(error.value) == (
    'router.k_inner=2 experts of a group, but 5 experts in router.groups=3 '
    'make a group of 1'
  )
  with pytest.raises(errors.InputError, match=r'^k_outer=3 is more than gr'):
    Hierarchical(k_outer=3)
  for num in (1, 2, 3, 5, 8):
    Hierarchical(groups=3, k_inner=4).shrunk(num).check(num)
