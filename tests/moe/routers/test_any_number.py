import jax
import jax.numpy as jnp
import numpy as np
from helpers import tiny

from moejax.moe.routers import any_number


def test_the_largest_first_and_unused_ones_last():
  """The docstring's example; expert 0 of token 1 is used with weight 0."""
  weight_TE = jnp.array([[0.3, 0.9, 0.0], [0.0, 0.0, 0.2]])
  used_TE = jnp.array([[True, True, False], [True, False, True]])
  prob_TE = any_number.shares(weight_TE)
  routing = any_number.send(
    tiny.router_input(weight_TE), weight_TE, used_TE, prob_TE
  )
  np.testing.assert_array_equal(routing.expert_A, [1, 2, 0, 0, 3, 3])
  np.testing.assert_array_equal(routing.token_A, [0, 1, 0, 1, 0, 1])
  np.testing.assert_allclose(routing.weight_A, [0.9, 0.2, 0.3, 0, 0, 0])
  np.testing.assert_allclose(prob_TE, [[0.25, 0.75, 0], [0, 0, 1]], rtol=1e-6)


def test_shares_are_finite_at_zero():
  weight_TE = jnp.array([[0, 0], [1e-20, 0], [1e30, 1e30]])
  pulled = lambda w: any_number.shares(w)[:, 0].sum()
  np.testing.assert_allclose(any_number.shares(weight_TE), 0.5)
  np.testing.assert_array_equal(jax.jit(jax.grad(pulled))(weight_TE)[:2], 0)
