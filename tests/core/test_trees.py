import jax.numpy as jnp
import numpy as np
import optax
from flax import struct

from moejax.core import trees


@struct.dataclass
class Pair:
  left: object
  right: object


TREE = {
  'b': Pair(jnp.zeros((2, 3)), [jnp.ones(4, jnp.bfloat16), jnp.zeros(())]),
  'a': {'w': jnp.zeros((0, 5))},
}


def test_leaves_by_path_in_the_trees_order():
  got = trees.leaves(TREE)
  assert list(got) == ['a/w', 'b/left', 'b/right/0', 'b/right/1']
  assert got['b/right/0'].shape == (4,)


def test_map_paths_keeps_the_structure_and_gives_the_paths():
  got = trees.map_paths(lambda path, x: f'{path} {x.shape}', TREE)
  assert got == {
    'a': {'w': 'a/w (0, 5)'},
    'b': Pair('b/left (2, 3)', ['b/right/0 (4,)', 'b/right/1 ()']),
  }


def test_moments_of_the_optimiser_end_in_the_path_of_their_weight():
  state = optax.adamw(1.0).init({'a': {'w': jnp.zeros(3)}})
  paths = list(trees.leaves(state))
  assert sum(path.endswith('/a/w') for path in paths) == 2


def test_counts_by_hand():
  assert trees.count(TREE) == 6 + 4 + 1 + 0
  assert trees.num_bytes(TREE) == 4 * 6 + 2 * 4 + 4
  assert trees.count({}) == trees.num_bytes({}) == 0


def test_counts_need_no_arrays():
  shape = np.zeros((3, 5), np.float32)
  assert trees.count([shape]) == 15
  assert trees.num_bytes([shape]) == 60
