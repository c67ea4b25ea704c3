"""Top-p routing: as few experts as reach p."""

import numpy as np
import pytest
from helpers import tiny

from moejax.moe.routers.top_p import TopP

# By hand: .5 .3 .15 .05 and its like, in another order for each token.
PROB_TE = np.array([
  [0.5, 0.3, 0.15, 0.05],
  [0.05, 0.15, 0.3, 0.5],
  [0.97, 0.01, 0.01, 0.01],
  [0.25, 0.26, 0.24, 0.25],
])


def used(p, prob_TE=PROB_TE):
  """The experts of each token, with their weights."""
  routing = tiny.route(TopP(p), tiny.router_input(np.log(prob_TE)))
  found = [{} for _ in prob_TE]
  for token, expert, weight in zip(
    routing.token_A, routing.expert_A, routing.weight_A, strict=True
  ):
    if expert < prob_TE.shape[1]:
      found[int(token)][int(expert)] = float(weight)
  return found


def test_worked_by_hand():
  assert [set(one) for one in used(0.4)] == [{0}, {3}, {0}, {0, 1}]
  assert [set(one) for one in used(0.7)] == [{0, 1}, {2, 3}, {0}, {0, 1, 3}]
  assert used(0.7)[1] == pytest.approx({3: 0.5, 2: 0.3})


def test_no_smaller_set_reaches_p():
  rng = np.random.default_rng(0)
  prob_TE = rng.dirichlet(np.full(7, 0.5), size=200)
  for p in (0.1, 0.4, 0.9):
    for prob_E, chosen in zip(prob_TE, used(p, prob_TE), strict=True):
      total = sum(chosen.values())
      assert total >= p - 1e-5
      assert total - min(chosen.values()) < p + 1e-5
      # They are the most probable.
      assert min(chosen.values()) >= np.sort(prob_E)[-len(chosen)] - 1e-6
