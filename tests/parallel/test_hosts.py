"""Which rows a process reads, and that they come to lie where they belong."""

import re
import types

import jax
import numpy as np
import pytest

from moejax.parallel import hosts, rules
from moejax.parallel import mesh as meshes
from moejax.parallel.mesh import MeshConfig

ORDERS = {
  'in order': [0, 1, 2, 3, 4, 5, 6, 7],
  'turns': [0, 4, 1, 5, 2, 6, 3, 7],
  'backwards': [7, 6, 5, 4, 3, 2, 1, 0],
}


def _mesh(order, **sizes):
  devices = [jax.devices()[i] for i in ORDERS[order]]
  return meshes.make(MeshConfig(**sizes), devices)


@pytest.mark.parametrize(
  ('order', 'sizes', 'rows'),
  [
    ('in order', {}, range(8)),
    ('turns', {}, range(0, 16, 4)),
    ('backwards', {}, range(8, 16)),
    ('in order', {'fsdp': 2, 'expert': 2}, range(8)),
    ('in order', {'model': 2}, range(8)),
    ('turns', {'model': 2}, range(16)),  # each row is on both halves
    ('in order', {'data': 1, 'model': 8}, range(16)),
    ('in order', {'context': 2}, range(8)),
    ('in order', {'data': 1, 'context': 8}, range(16)),
  ],
)
def test_rows_of_the_first_four_devices(order, sizes, rows):
  """As if they were a process's; four rows are two devices' share."""
  found = hosts.rows_of(jax.devices()[:4], 16, _mesh(order, **sizes))
  if order == 'turns' and not sizes:
    rows = [i + j for i in rows for j in (0, 1)]
  assert found.tolist() == [*rows]


@pytest.mark.parametrize('order', ORDERS)
@pytest.mark.parametrize(
  'sizes', [{}, {'fsdp': 4}, {'model': 2}, {'context': 2}]
)
def test_every_device_gets_its_own_rows(order, sizes):
  mesh = _mesh(order, **sizes)
  x = np.arange(32).reshape(16, 2)
  rows = hosts.rows_of(mesh.local_devices, 16, mesh)
  got = hosts.put_rows({'x': x[rows]}, mesh, rows, 16)['x']
  wanted = jax.device_put(x, rules.sharding(('rows',), mesh))
  assert got.sharding == wanted.sharding
  for a, b in zip(
    got.addressable_shards, wanted.addressable_shards, strict=True
  ):
    assert a.device == b.device
    np.testing.assert_array_equal(a.data, b.data)


def test_one_process_reads_all():
  mesh = _mesh('in order')
  assert hosts.my_rows(16, mesh) is None
  x = np.arange(16)
  np.testing.assert_array_equal(hosts.fetch(hosts.put_rows(x, mesh)), x)


@pytest.mark.parametrize('sizes', [{}, {'fsdp': 2, 'expert': 2}])
def test_each_set_of_axes_has_a_collective_that_connects_it(sizes):
  """The sums are those of NumPy, and XLA has left each of them."""
  mesh = _mesh('turns', **sizes)
  number = np.arange(8).reshape(mesh.devices.shape)
  axes = [i for i, size in enumerate(number.shape) if size > 1]
  wanted = np.zeros_like(number)
  for bits in range(1, 2 ** len(axes)):
    along = tuple(axis for i, axis in enumerate(axes) if bits >> i & 1)
    wanted += number.sum(along, keepdims=True)
  program = hosts._sums(mesh)
  compiled = program.lower().compile()
  np.testing.assert_array_equal(compiled(), wanted)
  found = re.findall(r'= \S+ all-reduce\(', compiled.as_text())
  assert len(found) == 2 ** len(axes) - 1


@pytest.mark.parametrize(
  ('kind', 'platform', 'number'),
  [
    ('cpu', 'cpu', 0),
    ('NVIDIA H200', 'gpu', 0),
    ('TPU v5 lite', 'tpu', 1),
    ('TPU v5', 'tpu', 4),
    ('TPU v6 lite', 'tpu', 4),
  ],
)
def test_compiler_options_by_kind_of_chip(kind, platform, number):
  """SparseCores, which v5e has not, move what three kinds of collectives do."""
  device = types.SimpleNamespace(device_kind=kind, platform=platform)
  mesh = types.SimpleNamespace(devices=np.array([device], object))
  assert len(hosts.overlap(mesh)) == number
