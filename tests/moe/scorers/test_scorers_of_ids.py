"""Scorers that look at no token vector: constant, and token_embedding."""

import jax
import jax.numpy as jnp
import numpy as np

from moejax.moe.scorers.base import ScorerInput
from moejax.moe.scorers.constant import Constant
from moejax.moe.scorers.token_embedding import TokenEmbedding

TOKEN_T = np.array([3, 1, 3, 9])


def arrays(params):
  return {name: p[...] for name, p in params.items()}


def test_token_embedding_is_a_table_by_id():
  """Row by row the products, whatever the vectors; an id beyond is the last."""
  scorer = TokenEmbedding(vocab_size=6, dim=2)
  w = {
    'v_VZ': np.arange(12.0).reshape(6, 2).astype(np.float32),
    'w_EZ': np.array([[1, 0], [0, 1], [1, -1]], np.float32),
  }
  given = ScorerInput(jnp.full((4, 8), jnp.nan), jnp.asarray(TOKEN_T))
  np.testing.assert_allclose(
    scorer(w, given), [[6, 7, -1], [2, 3, -1], [6, 7, -1], [10, 11, -1]]
  )
  gradient = jax.grad(lambda w: scorer(w, given).sum())(
    jax.tree.map(jnp.asarray, w)
  )
  reached = np.abs(gradient['v_VZ']).sum(axis=1) > 0
  np.testing.assert_array_equal(np.nonzero(reached)[0], [1, 3, 5])


def test_token_embedding_starts_as_published():
  """50 dimensions; centroids orthogonal and of norm 0.1."""
  w = arrays(TokenEmbedding(vocab_size=99).init(jax.random.key(0), 8, 4, 0.02))
  assert w['v_VZ'].shape == (99, 50)
  np.testing.assert_allclose(
    w['w_EZ'] @ w['w_EZ'].T, 0.01 * np.eye(4), atol=1e-6
  )


def test_constant_is_the_same_for_all_tokens():
  scorer = Constant(edge=0.5)
  w = arrays(scorer.init(jax.random.key(0), 8, 1000, 0.02))
  assert 0.49 < float(w['c_E'].max()) <= 0.5
  assert -0.5 <= float(w['c_E'].min()) < -0.49
  given = ScorerInput(jnp.full((4, 8), jnp.nan), jnp.asarray(TOKEN_T))
  logits_TE = scorer(w, given)
  assert logits_TE.shape == (4, 1000)
  np.testing.assert_array_equal(logits_TE, np.tile(w['c_E'], (4, 1)))
