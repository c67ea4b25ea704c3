"""Autonomy-of-Experts: the scorer that reads experts, and those experts."""

import dataclasses
import math
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import dense, references, tiny

from moejax import config
from moejax.core import errors
from moejax.moe.balance.load import ExpertLevel
from moejax.moe.compute import grouped_matmuls
from moejax.moe.experts import SwiGLU
from moejax.moe.experts.autonomous import AutonomousSwiGLU
from moejax.moe.routers.top_k import TopK
from moejax.moe.scorers.base import ScorerInput
from moejax.moe.scorers.expert_norm import ExpertNorm

ZOO = str(pathlib.Path(__file__).parents[3] / 'configs' / 'zoo.py')
Z0 = np.array([[1.0, 0], [1, 1], [0, 2]], np.float32)
W_DOWN = np.array([
  [[1, 0], [0, 1]],
  [[0.5, 0.5], [0.5, -0.5]],
  [[2, 0], [0, 0]],
  [[0, 1], [1, 1]],
])


def score(x_TD, w_down_EDR):
  experts = {'w_down_EDR': jnp.asarray(w_down_EDR)}
  given = ScorerInput(jnp.asarray(x_TD), jnp.zeros(len(x_TD), int), experts)
  return ExpertNorm()({}, given)


def weights(num, width=6, hidden=4, rank=3, seed=0):
  rng = np.random.default_rng(seed)
  draw = lambda *shape: rng.normal(size=(num, *shape)).astype(np.float32)
  return {
    'w_down_EDR': draw(width, rank),
    'w_up_ERF': draw(rank, hidden),
    'w_p_EDF': draw(width, hidden),
    'w_out_EFD': draw(hidden, width),
  }


def reference(w, e, x_D):
  """One token through one expert."""
  gate_F = x_D @ w['w_down_EDR'][e] @ w['w_up_ERF'][e]
  silu_F = gate_F / (1 + np.exp(-gate_F))
  return (silu_F * (x_D @ w['w_p_EDF'][e])) @ w['w_out_EFD'][e]


def test_the_worked_example():
  """Token 0 through the four matrices: [1 0], [.5 .5], [2 0], [0 1]; its tie
  of experts 0 and 3 goes to 0.
  """
  logits_TE = score(Z0, W_DOWN)
  np.testing.assert_allclose(
    logits_TE,
    [
      [1, 0.7071, 2, 1],
      [1.4142, 1, 2, 2.2361],
      [2, 1.4142, 0, 2.8284],
    ],
    atol=5e-5,
  )
  routing = TopK(k=2)(tiny.router_input(logits_TE))
  chosen = np.asarray(routing.expert_A).reshape(2, 3).T
  np.testing.assert_array_equal(chosen, [[2, 0], [3, 2], [3, 0]])
  np.testing.assert_allclose(
    routing.prob_TE[0], [0.1830, 0.1365, 0.4975, 0.1830], atol=5e-5
  )
  np.testing.assert_allclose(
    routing.weight_A[:3], [0.4975, 0.3968, 0.5751], atol=5e-5
  )


@pytest.mark.parametrize('renormalise', [False, True])
def test_both_variants_of_the_authors_code(renormalise):
  """Softmax of norms, the k largest, over their sum or not; and their loss,
  E sum_e f_e P_e with f_e the share of tokens that choose e: k when balanced.
  """
  k, num = 2, 4
  want, f_E, p_E = np.zeros((3, num)), np.zeros(num), np.zeros(num)
  for t, x_D in enumerate(Z0):
    norms = [math.sqrt(sum((x_D @ w_DR) ** 2)) for w_DR in W_DOWN]
    p = references.softmax(norms)
    chosen = references.top(p, k)
    total = sum(p[e] for e in chosen) if renormalise else 1.0
    for e in chosen:
      want[t, e] = p[e] / total
      f_E[e] += 1 / 3
    p_E += np.array(p) / 3
  moe = config.load(f'{ZOO}:autonomy').model.moe
  router = dataclasses.replace(moe.router, renormalise=renormalise)
  given = tiny.router_input(score(Z0, W_DOWN))
  routing = router(given)
  np.testing.assert_allclose(dense.gates(routing, 3, num), want, rtol=1e-5)
  (part,) = moe.balance
  loss = float(part.loss(part.observe(given, routing)))
  assert loss == pytest.approx(0.01 * num * (f_E @ p_E), rel=1e-5)
  level = ExpertLevel(0.01 * k)
  same = float(level.loss(level.observe(given, routing)))
  assert loss == pytest.approx(same, rel=1e-5)


def test_norms_train_the_experts_and_are_finite_at_zero():
  """Expert 2 is zero for token 2, and there is a token of zeros."""
  x_TD = np.concatenate([Z0, np.zeros((1, 2), np.float32)])
  pulled = lambda x, w: (score(x, w) * jnp.arange(1, 5)).sum()
  x_grad, w_grad = jax.grad(pulled, (0, 1))(
    jnp.asarray(x_TD), jnp.asarray(W_DOWN, jnp.float32)
  )
  assert np.isfinite(x_grad).all()
  assert np.isfinite(w_grad).all()
  assert (np.abs(w_grad).max(axis=(1, 2)) > 0).all()
  # d|x| / dx is the unit vector: expert 0 of token 2, whose W_down is I.
  only = jax.grad(lambda x: score(x, W_DOWN)[2, 0])(jnp.asarray(x_TD))
  np.testing.assert_allclose(only[2], [0, 1], atol=1e-6)


def test_scores_are_float32_from_bfloat16_experts():
  got = score(Z0, jnp.asarray(W_DOWN, jnp.bfloat16))
  assert got.dtype == jnp.float32
  np.testing.assert_allclose(got, score(Z0, W_DOWN), rtol=1e-6)


def test_it_needs_experts_that_have_the_matrix():
  given = ScorerInput(jnp.asarray(Z0), jnp.zeros(3, int), {'w_in_ED2F': 0})
  with pytest.raises(errors.InputError) as error:
    ExpertNorm()({}, given)
  assert str(error.value) == (
    'scorer expert_norm reads the experts: use it with '
    'model.moe.experts=autonomous_swiglu'
  )
  assert ExpertNorm().reads_experts
  assert ExpertNorm().init(jax.random.key(0), 8, 4, 0.02) == {}


def test_experts_against_one_token_at_a_time():
  """Groups of 3, 0 and 4 rows."""
  w = weights(3)
  x_RD = np.random.default_rng(1).normal(size=(7, 6)).astype(np.float32)
  y_RD = AutonomousSwiGLU(rank=3)(
    w,
    jnp.asarray(x_RD),
    jnp.array([3, 0, 4]),
    grouped_matmuls.ReferenceMatmul(),
  )
  want = [
    reference(w, e, x) for e, x in zip([0, 0, 0, 2, 2, 2, 2], x_RD, strict=True)
  ]
  np.testing.assert_allclose(y_RD, want, rtol=1e-4, atol=1e-4)
  one = {name: part[2:] for name, part in w.items()}
  np.testing.assert_allclose(
    AutonomousSwiGLU().dense(one, x_RD[3:]), want[3:], rtol=1e-4, atol=1e-4
  )


@pytest.mark.parametrize(('width', 'hidden'), [(1536, 768), (20, 30)])
def test_as_many_parameters_as_swiglu(width, hidden):
  """1536 x 768 gives the paper's rank of 512."""
  make = lambda experts: jax.eval_shape(
    lambda: jax.tree.map(
      lambda p: p[...],
      experts.init(jax.random.key(0), 2, width, hidden, 0.1),
      is_leaf=lambda p: hasattr(p, 'get_metadata'),
    )
  )
  size = lambda made: sum(x.size for x in made.values())
  made = make(AutonomousSwiGLU())
  rank = made['w_down_EDR'].shape[2]
  assert rank == width * hidden // (width + hidden)
  assert (width == 1536) == (rank == 512)
  assert size(made) == size(make(SwiGLU()))


def test_weights_start_and_are_split_like_swiglu():
  made = AutonomousSwiGLU(rank=16).init(jax.random.key(0), 4, 32, 24, 0.02)
  axes = {name: p.get_metadata()['axes'] for name, p in made.items()}
  assert axes == {
    'w_down_EDR': ('expert', 'embed', 'unsharded'),
    'w_up_ERF': ('expert', 'unsharded', 'mlp'),
    'w_p_EDF': ('expert', 'embed', 'mlp'),
    'w_out_EFD': ('expert', 'mlp', 'embed'),
  }
  for param in made.values():
    assert 0.018 < float(param[...].std()) < 0.022
  shared = AutonomousSwiGLU(rank=16).init(jax.random.key(0), 1, 32, 24, 0.02)
  assert shared['w_p_EDF'].get_metadata()['axes'][0] == 'unsharded'
