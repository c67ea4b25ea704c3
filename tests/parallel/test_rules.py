import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import tiny
from jax.sharding import NamedSharding, PartitionSpec

from moejax.core import errors, trees
from moejax.parallel import hosts, rules
from moejax.parallel import mesh as meshes

AXES = {'a/w': ('embed', 'mlp'), 'a/scale': ('embed',)}
SHAPES = {
  'a': {
    'w': jax.ShapeDtypeStruct((16, 6), jnp.float32),
    'scale': jax.ShapeDtypeStruct((16,), jnp.float32),
  }
}


def test_every_rule_is_of_axes_of_the_mesh():
  for rule in rules.RULES.values():
    names = rule if isinstance(rule, tuple) else (rule,)
    assert set(names) <= {*meshes.AXES, None}


def test_spec():
  assert rules.spec(('layers', 'embed', 'mlp')) == PartitionSpec(
    None, 'fsdp', 'model'
  )
  assert rules.spec(('batch', 'unsharded')) == PartitionSpec(
    ('data', 'fsdp', 'expert', 'context', 'stage'), None
  )
  assert rules.spec(('rows', 'length')) == PartitionSpec(
    ('data', 'fsdp', 'expert', 'stage'), 'context'
  )
  assert rules.spec(()) == PartitionSpec()


def test_an_unknown_name_lists_the_known_ones():
  with pytest.raises(
    errors.InputError,
    match=r"^unknown axis name 'embd'; did you mean 'embed'\? known are: ba",
  ):
    rules.spec(('embd', 'mlp'))


def test_a_tree_of_weights():
  mesh = tiny.mesh(8, data=2, fsdp=4)
  assert rules.shardings(AXES, SHAPES, mesh) == {
    'a': {
      'w': NamedSharding(mesh, PartitionSpec('fsdp', 'model')),
      'scale': NamedSharding(mesh, PartitionSpec('fsdp')),
    }
  }


def test_an_uneven_split_names_weight_dimension_and_sizes():
  shapes = {
    'a': {**SHAPES['a'], 'w': jax.ShapeDtypeStruct((6, 6), jnp.float32)}
  }
  with pytest.raises(errors.InputError, match='^a/w: embed=6 does not split 4'):
    rules.shardings(AXES, shapes, tiny.mesh(8, data=2, fsdp=4))
  # The batch's dimension goes over two axes: 12 rows are no 8 parts.
  with pytest.raises(
    errors.InputError, match='^x: batch=12 does not split 8 w'
  ):
    rules.shardings(
      {'x': ('batch',)}, {'x': np.zeros(12)}, tiny.mesh(8, data=2, fsdp=4)
    )
  # One device splits nothing.
  rules.shardings(AXES, shapes, tiny.mesh())


@pytest.mark.parametrize(
  ('axes', 'named'),
  [
    ({'a/scale': ('embed',)}, 'None'),
    ({**AXES, 'a/w': ('embed',)}, r"\('embed',\)"),
    ({**AXES, 'a/w': ()}, r'\(\)'),
  ],
)
def test_a_weight_without_a_name_for_each_dimension(axes, named):
  with pytest.raises(
    ValueError,
    match=rf'^a/w of shape \(16, 6\) names its dimensions {named}; give nnx',
  ):
    rules.shardings(axes, SHAPES, tiny.mesh())


def test_every_weight_of_a_model_is_named_and_split_over_fsdp():
  model = tiny.model(mesh_of=tiny.mesh(8, data=2, fsdp=4))
  shapes = trees.leaves(model.shapes)
  assert model.axes.keys() == shapes.keys()
  for path, sharding in trees.leaves(model.shardings).items():
    whole, part = shapes[path].shape, sharding.shard_shape(shapes[path].shape)
    # All but the router's centroids, which every device needs.
    ways = 1 if path.endswith('router/w_DE') else 4
    assert np.prod(whole) == ways * np.prod(part), path


def test_constrain_lays_out_and_changes_no_value():
  mesh = tiny.mesh(8, data=2, fsdp=4)
  x = jnp.arange(32.0).reshape(16, 2)
  put = jax.jit(lambda x: rules.constrain(x, ('batch', 'unsharded'), mesh))
  assert put(x).sharding.shard_shape(x.shape) == (2, 2)
  np.testing.assert_array_equal(put(x), x)
  one = tiny.mesh()
  assert rules.constrain(x, ('batch', 'unsharded'), one) is x


def test_replicated_is_whole_on_every_device():
  sharding = rules.replicated(tiny.mesh(8))
  assert sharding.shard_shape((3, 5)) == (3, 5)
  assert len(sharding.device_set) == 8


def test_put_rows_splits_the_batch_in_order():
  mesh = tiny.mesh(8, data=2, fsdp=4)
  rows = {'x': np.arange(48).reshape(16, 3)}
  got = hosts.put_rows(rows, mesh)['x']
  np.testing.assert_array_equal(got, rows['x'])
  assert got.sharding.shard_shape(got.shape) == (2, 3)
