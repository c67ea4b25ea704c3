import dataclasses

import jax
import numpy as np
from helpers import tiny

from moejax.moe.routers.thor import Thor

T, E, L = 24, 4, 6
VALID_T = np.arange(T) != 5


def given(num=T, **more):
  more = {'row_length': L, **more}
  return tiny.router_input(np.zeros((num, E)), **more)


def test_training_sends_the_whole_batch_to_one_expert():
  """Over 400 keys each expert comes up about 100 times (sigma 8.7)."""
  expert = jax.vmap(lambda key: Thor()(given(key=key)).expert_A)
  found = np.asarray(expert(jax.random.split(jax.random.key(0), 400)))
  assert (found == found[:, :1]).all()
  count_E = np.bincount(found[:, 0], minlength=E)
  assert count_E.min() > 65
  routing = tiny.route(Thor(), given(key=jax.random.key(1), valid_T=VALID_T))
  np.testing.assert_array_equal(routing.weight_A, VALID_T)
  np.testing.assert_array_equal(routing.expert_A[5], E)
  np.testing.assert_allclose(routing.prob_TE, 1 / E)


def test_evaluation_by_token_is_even_and_repeats():
  expert_A = np.asarray(tiny.route(Thor(), given(12_000)).expert_A)
  np.testing.assert_array_equal(
    tiny.route(Thor(), given(12_000)).expert_A, expert_A
  )
  share_E = np.bincount(expert_A, minlength=E) / 12_000
  np.testing.assert_allclose(share_E, 1 / E, atol=0.02)
  for other in (
    tiny.route(Thor(seed=1), given(12_000)),
    tiny.route(Thor(), given(12_000, layer=1)),
  ):
    assert 0.2 < (np.asarray(other.expert_A) == expert_A).mean() < 0.3


def test_evaluation_by_sequence():
  whole = given(40 * L)
  expert_BL = np.asarray(
    tiny.route(Thor(by='sequence'), whole).expert_A
  ).reshape(40, L)
  assert (expert_BL == expert_BL[:, :1]).all()
  assert set(expert_BL[:, 0]) == set(range(E))
  # The second half of the batch alone, as another device sees it.
  half = dataclasses.replace(given(20 * L), index_T=whole.index_T[20 * L :])
  np.testing.assert_array_equal(
    Thor(by='sequence')(half).expert_A, expert_BL[20:].reshape(-1)
  )
