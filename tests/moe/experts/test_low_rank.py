"""Experts as low rank plus a rest: sum, split, and what they compute."""

import jax
import numpy as np
import pytest
from helpers import tiny

from moejax.compress import low_rank as plain
from moejax.compress import prune
from moejax.core import errors, trees
from moejax.model import build
from moejax.moe.experts import low_rank
from moejax.run import ranks

CONFIG = tiny.model_config(num_layers=2, first_dense=1)
LOW = ranks.of_rank(CONFIG, 3)
BATCH = tiny.batch(([12], [5, 4]))


def test_the_names_say_their_shapes():
  assert low_rank.names('w_in_ED2F') == ('u_in_ED2R', 'v_in_E2RF')
  assert low_rank.names('w_out_EFD') == ('u_out_EFR', 'v_out_ERD')
  model = tiny.model(LOW, tiny.mesh(8, fsdp=2, expert=2))
  routed, low = (
    trees.leaves(model.shapes['moe']['ffn'][name])
    for name in ('routed', 'low_rank')
  )
  assert {name: x.shape for name, x in low.items()} == {
    'u_in_ED2R': (1, 4, 16, 2, 3),
    'v_in_E2RF': (1, 4, 2, 3, 6),
    'u_out_EFR': (1, 4, 6, 3),
    'v_out_ERD': (1, 4, 3, 16),
  }
  assert [*routed] == ['w_in_ED2F', 'w_out_EFD']
  # They lie as the matrices do, with the rank whole on every device.
  spec = trees.leaves(model.shardings)['moe/ffn/low_rank/u_in_ED2R'].spec
  whole = trees.leaves(model.shardings)['moe/ffn/routed/w_in_ED2F'].spec
  assert spec[:3] == whole[:3]


def test_the_split_is_that_of_each_matrix_alone():
  """Against NumPy in float64, for gate and up apart."""
  rng = np.random.default_rng(0)
  experts = {
    'w_in_ED2F': rng.normal(size=(2, 3, 7, 2, 5)).astype(np.float32),
    'w_out_EFD': rng.normal(size=(2, 3, 5, 7)).astype(np.float32),
    'b_out_ED': rng.normal(size=(2, 3, 7)).astype(np.float32),
  }
  rest, factors = jax.jit(lambda x: low_rank.decomposed(x, 2))(experts)
  whole = low_rank.summed(rest, factors)
  for name, x in experts.items():
    np.testing.assert_allclose(whole[name], x, atol=1e-5, err_msg=name)
  for n, e, half in np.ndindex(2, 3, 2):
    want = plain.decomposed(experts['w_in_ED2F'][n, e, :, half], 2)
    np.testing.assert_allclose(
      rest['w_in_ED2F'][n, e, :, half], want.s_IO, atol=1e-5
    )
    u, v = factors['u_in_ED2R'][n, e, :, half], factors['v_in_E2RF'][n, e, half]
    np.testing.assert_allclose(u @ v, want.u_IR @ want.v_RO, atol=1e-5)
    # The singular values are shared.
    np.testing.assert_allclose(
      np.linalg.norm(u, axis=0), np.linalg.norm(v, axis=1), rtol=1e-4
    )
  assert rest['b_out_ED'] is not None


def hidden(model, weights):
  out = jax.jit(
    lambda w: (
      model.bind(w)(BATCH.token_BL, BATCH.segment_BL, BATCH.position_BL).x_BLD
    )
  )
  return np.asarray(out(weights))


def test_a_model_of_another_rank_computes_the_same():
  """Whole matrices to rank 3 and back, as `start` of a run does."""
  whole, low = tiny.model(CONFIG), tiny.model(LOW)
  weights = tiny.weights(whole)
  assert ranks.source(low, CONFIG).shapes == whole.shapes
  assert ranks.source(whole, CONFIG) is whole
  split = ranks.changed(weights, whole, low)
  assert trees.leaves(jax.tree.map(np.shape, split)) == trees.leaves(
    jax.tree.map(lambda x: x.shape, low.shapes)
  )
  want = hidden(whole, weights)
  np.testing.assert_allclose(hidden(low, split), want, atol=1e-4)
  back = ranks.changed(split, low, whole)
  tiny.assert_close(back, weights, atol=1e-5)


def test_fresh_factors_add_nothing():
  made = low_rank.init(
    jax.random.key(0),
    CONFIG.moe.experts.init(jax.random.key(1), 4, 16, 6, 0.1),
    3,
    0.1,
  )
  assert not np.any(made['v_in_E2RF'][...])
  assert np.all(np.std(made['u_in_ED2R'][...]) > 0.05)


def test_parts_of_matrices_are_not_merged():
  with pytest.raises(errors.InputError, match='model.moe.low_rank=3'):
    prune.merged(LOW, [])


def test_a_rank_above_that_of_the_matrices_is_one_line():
  line = 'model.moe.low_rank=7, but matrices of experts are 16 x 6: set'
  with pytest.raises(errors.InputError, match=line):
    build.build(ranks.of_rank(CONFIG, 7), tiny.mesh())
