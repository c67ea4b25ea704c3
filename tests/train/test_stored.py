"""A leaf that is read in parts is the leaf, and no more of it is read."""

import jax
import numpy as np
import pytest

from moejax.core import errors
from moejax.parallel import mesh as meshes
from moejax.train import checkpoint, state_files

SHAPE = (6, 4, 8, 3)
INDICES = [
  (3, 1),
  (0, slice(None), 2, slice(None)),
  (0, 3, slice(None), 0),
  (3, slice(1, 3), 2),
  (5, slice(None)),
  (slice(None), 1),
  (4, 0, 0, 0),
]


def leaf():
  return jax.ShapeDtypeStruct(SHAPE, np.float32)


@pytest.fixture
def x():
  size = np.prod(SHAPE)
  return np.arange(size, dtype=np.float32).reshape(SHAPE) + 1


def saved(tmp_path, state):
  checkpoints = checkpoint.Checkpointer(tmp_path / 'all', asynchronous=False)
  checkpoints.save(0, state, {})
  return checkpoints


@pytest.mark.parametrize('places', [1, 6])
def test_it_is_indexed_as_the_array(places, x, tmp_path, monkeypatch):
  if places == 1:
    monkeypatch.setattr(state_files, 'LAYER_BYTES', x[0].nbytes)
  with saved(tmp_path, {'a': {'x': jax.numpy.asarray(x)}}) as checkpoints:
    found = checkpoints.open_leaf(0, 'a/x', leaf())
    for index in INDICES:
      np.testing.assert_array_equal(found[index], x[index], err_msg=str(index))
      assert len(found._in_memory) == places


def test_a_stack_on_a_mesh_is_cut_by_layers_too(x, tmp_path, monkeypatch):
  monkeypatch.setattr(state_files, 'LAYER_BYTES', 1)
  mesh = meshes.make(meshes.MeshConfig(data=1, expert=4), jax.devices()[:4])
  spec = jax.sharding.PartitionSpec(None, 'expert')
  split = jax.device_put(x, jax.sharding.NamedSharding(mesh, spec))
  with saved(tmp_path, {'x': split}) as checkpoints:
    found = checkpoints.open_leaf(0, 'x', leaf())
    assert found._store.chunk_layout.read_chunk.shape == (1, 1, 8, 3)
    np.testing.assert_array_equal(found[3, :], x[3])
    whole, _ = checkpoints.restore(0, {'x': leaf()})
    np.testing.assert_array_equal(whole['x'], x)


def test_a_layer_is_not_read_twice(x, tmp_path, monkeypatch):
  monkeypatch.setattr(state_files, 'LAYER_BYTES', 1)
  with saved(tmp_path, {'x': jax.numpy.asarray(x)}) as checkpoints:
    found = checkpoints.open_leaf(0, 'x', leaf())
    np.testing.assert_array_equal(found[3, 1], x[3, 1])
    found._store = None
    np.testing.assert_array_equal(found[3, 2], x[3, 2])


def test_another_leaf_is_one_line(x, tmp_path):
  with saved(tmp_path, {'x': jax.numpy.asarray(x)}) as checkpoints:
    other = jax.ShapeDtypeStruct((6, 4), np.float32)
    for name, like, message in [
      ('x', other, 'x is float32'),
      ('y', leaf(), 'it lacks y'),
    ]:
      with pytest.raises(errors.InputError, match=message):
        checkpoints.open_leaf(0, name, like)
    with pytest.raises(errors.InputError, match='no checkpoint 3'):
      checkpoints.open_leaf(3, 'x', leaf())
