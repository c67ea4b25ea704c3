"""Checkpoints of earlier versions open, whose leaves had other paths."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import tiny

from moejax.core import errors, trees
from moejax.moe.balance import BALANCE
from moejax.moe.routers import ROUTERS
from moejax.train import old_paths
from moejax.train.checkpoint import Checkpointer

# Today's path of a leaf, and the path that it was saved under before.
BEFORE = {
  'ffn/router_state/loss_free/selection_bias_E': 'ffn/memory/loss_free/bias_E',
  'ffn/router_state/': 'ffn/memory/',
  'ffn/extra_scorers/': 'ffn/heads/',
}


def state_of():
  """Weights with both kinds of renamed leaves, and moments of them."""
  model = tiny.model(
    tiny.model_config(
      num_layers=2,
      first_dense=0,
      moe={
        'router': ROUTERS['stable_moe'](),
        'balance': (BALANCE['loss_free'](),),
      },
    )
  )
  weights = tiny.draw(model.shapes)
  return {
    'weights': weights,
    'moments': jax.tree.map(lambda x: 2 * x, weights),
  }


def nested(leaves):
  tree = {}
  for path, leaf in leaves.items():
    *folders, last = path.split('/')
    node = tree
    for folder in folders:
      node = node.setdefault(folder, {})
    node[last] = leaf
  return tree


def as_before(path):
  for new, old in BEFORE.items():
    path = path.replace(new, old)
  return path


@pytest.fixture(scope='module')
def saved(tmp_path_factory):
  """A state, and the folder of its checkpoint by an earlier version."""
  state = state_of()
  leaves = {
    as_before(path): jnp.asarray(leaf)
    for path, leaf in trees.leaves(state).items()
  }
  assert {'weights/moe/ffn/memory/loss_free/bias_E'} < leaves.keys()
  assert {'moments/moe/ffn/memory/router/steps'} < leaves.keys()
  folder = tmp_path_factory.mktemp('old')
  with Checkpointer(folder) as checkpointer:
    checkpointer.save(7, nested(leaves), {'next_step': 7})
  return state, folder


def test_a_checkpoint_with_the_old_paths_is_restored(saved):
  state, folder = saved
  abstract = jax.tree.map(
    lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), state
  )
  with Checkpointer(folder) as checkpointer:
    restored, extra = checkpointer.restore_latest(abstract)
  assert extra == {'next_step': 7}
  tiny.assert_close(restored, state, rtol=0, atol=0)


def test_a_leaf_of_it_is_opened_by_its_path_of_today(saved):
  state, folder = saved
  path = 'weights/moe/ffn/router_state/loss_free/selection_bias_E'
  leaf = trees.leaves(state)[path]
  like = jax.ShapeDtypeStruct(leaf.shape, leaf.dtype)
  with Checkpointer(folder) as checkpointer:
    opened = checkpointer.open_leaf(7, path, like)
    np.testing.assert_array_equal(opened[1, :], leaf[1])
    with pytest.raises(errors.InputError, match='it lacks weights/other'):
      checkpointer.open_leaf(7, 'weights/other', like)


def test_paths_of_today_stay_as_they_are():
  """Attention has heads and a state may be called memory: not theirs."""
  for path in (
    *trees.leaves(state_of()),
    'weights/moe/attention/heads/w',
    'memory/moe/ffn/router/w_DE',
  ):
    assert old_paths.current(path) == path
