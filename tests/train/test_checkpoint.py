"""What is saved is restored to the bit, and what is kept."""

import json
import os
import threading

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import as_threads
from helpers.saved import (
  Moments,
  abstract,
  assert_same_bits,
  make_state,
  random_bits,
  save_steps,
)
from jax.sharding import NamedSharding, PartitionSpec

from moejax.core import errors, files, manifest
from moejax.train import checkpoint_folder
from moejax.train.checkpoint import Checkpointer


def test_restore_is_bit_exact_whatever_holds_the_leaves(tmp_path):
  state = make_state(3)
  extra = {
    'position': [2, 2**53 + 1],
    'config': {'opt': {'lr': 0.1}},
    'x': None,
  }
  with Checkpointer(tmp_path / 'new' / 'c') as checkpointer:
    assert checkpointer.restore_latest(abstract(state)) is None
    checkpointer.save(3, state, extra)
  with Checkpointer(tmp_path / 'new' / 'c') as checkpointer:
    assert checkpointer.latest() == (3, extra)
    found, found_extra = checkpointer.restore_latest(abstract(state))
  assert found_extra == extra
  assert isinstance(found.moments, Moments)
  assert_same_bits(found, state)


def test_relative_folders(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  save_steps('c', [1])
  assert Checkpointer(tmp_path / 'c').steps() == [1]


def shardings(mesh_shape, spec):
  mesh = jax.make_mesh(
    mesh_shape,
    ('data', 'fsdp'),
    axis_types=(jax.sharding.AxisType.Auto,) * 2,
  )
  return NamedSharding(mesh, spec)


@pytest.mark.parametrize(
  ('mesh_shape', 'spec'),
  [
    ((2, 4), PartitionSpec(None, 'data')),
    ((8, 1), PartitionSpec('data')),
    ((1, 1), PartitionSpec()),
    ((4, 2), PartitionSpec()),
  ],
)
def test_saved_on_one_mesh_restored_on_another(tmp_path, mesh_shape, spec):
  want = jnp.asarray(random_bits(0, (16, 8), np.float32))
  w = jax.device_put(want, shardings((4, 2), PartitionSpec('data', 'fsdp')))
  with Checkpointer(tmp_path) as checkpointer:
    checkpointer.save(1, {'w': w}, {})
    sharding = shardings(mesh_shape, spec)
    target = {'w': jax.ShapeDtypeStruct(w.shape, w.dtype, sharding=sharding)}
    state, _ = checkpointer.restore_latest(target)
  assert state['w'].sharding.is_equivalent_to(sharding, 2)
  assert_same_bits(state, {'w': want})


def test_without_sharding_it_comes_back_as_numpy(tmp_path):
  state = {'a': make_state(1).params['blocks'][0]['w'], 'n': jnp.int32(4)}
  with Checkpointer(tmp_path) as checkpointer:
    checkpointer.save(1, state, {})
    target = jax.tree.map(
      lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), state
    )
    found, _ = checkpointer.restore_latest(target)
  assert {type(x) for x in jax.tree.leaves(found)} == {np.ndarray}
  assert_same_bits(found, state)


def test_buffers_may_be_given_away_and_overwritten_after_save(tmp_path):
  sharding = shardings((4, 2), PartitionSpec('data', 'fsdp'))
  add = jax.jit(lambda x: jax.tree.map(lambda y: y + 1, x), donate_argnums=0)
  with Checkpointer(tmp_path, keep=4) as checkpointer:
    for step in range(4):
      many = jax.device_put(jnp.full((1024, 512), float(step)), sharding)
      state = {'one': jnp.full((1024, 512), float(step)), 'many': many}
      host = np.full((1000, 100), step)
      checkpointer.save(step, {**state, 'host': host}, {})
      host[:] = -1
      for _ in range(5):
        state = add(state)
      assert state['one'][0, 0] == step + 5
      jax.block_until_ready(state)
    for step in range(4):
      target = {
        'one': state['one'],
        'many': state['many'],
        'host': np.empty((1000, 100), int),
      }
      found, _ = checkpointer.restore(step, target)
      for leaf in found.values():
        assert (np.asarray(leaf) == step).all()


def test_save_returns_before_it_is_complete(tmp_path, monkeypatch):
  go = threading.Event()
  complete = checkpoint_folder.CheckpointFolder.complete

  def slow(self, step, meta):
    assert go.wait(60)
    complete(self, step, meta)

  monkeypatch.setattr(checkpoint_folder.CheckpointFolder, 'complete', slow)
  with Checkpointer(tmp_path) as checkpointer:
    checkpointer.save(1, make_state(1), {})
    checkpointer.check()
    assert checkpointer.steps() == []
    go.set()
    checkpointer.wait()
    assert checkpointer.steps() == [1]
  with Checkpointer(tmp_path, asynchronous=False) as checkpointer:
    checkpointer.save(2, make_state(2), {})
    assert checkpointer.steps() == [1, 2]


def test_the_newest_and_the_best_are_kept(tmp_path):
  with Checkpointer(tmp_path, keep=2) as checkpointer:
    for step, metric in [(1, 5.0), (2, 2.0), (3, 3.0), (4, 4.0), (5, None)]:
      checkpointer.save(step, {'x': jnp.ones(3)}, {'metric': metric})
    checkpointer.wait()
    assert checkpointer.best() == (2, 2.0)
    assert checkpointer.steps() == [2, 4, 5]
  with Checkpointer(tmp_path, keep=2) as checkpointer:  # it is remembered
    checkpointer.mark_best(5, 1.5)
    checkpointer.mark_best(4, float('nan'))
    checkpointer.mark_best(4, float('-inf'))
    assert checkpointer.best() == (5, 1.5)
    checkpointer.save(6, {'x': jnp.ones(3)}, {})
    checkpointer.save(7, {'x': jnp.ones(3)}, {})
    checkpointer.wait()
    assert checkpointer.steps() == [5, 6, 7]
  with Checkpointer(tmp_path, keep=1, keep_best=False) as checkpointer:
    checkpointer.save(8, {'x': jnp.ones(3)}, {})
  assert checkpointer.steps() == [8]


def test_a_metric_is_the_best_beside_those_of_the_steps_there_are(
  tmp_path, monkeypatch
):
  with Checkpointer(tmp_path, keep=2) as checkpointer:
    assert checkpointer.is_best(1, 9.0)
    assert not checkpointer.is_best(1, float('nan'))
    assert not checkpointer.is_best(1, float('-inf'))
    checkpointer.save(10, {'x': jnp.ones(3)}, {'metric': 4.0})
    checkpointer.wait()
    # A checkpoint that is complete only when somebody waits for it.
    waited, wait = threading.Event(), checkpointer.wait
    complete = checkpoint_folder.CheckpointFolder.complete

    def slow(self, step, meta):
      waited.wait()
      complete(self, step, meta)

    monkeypatch.setattr(checkpoint_folder.CheckpointFolder, 'complete', slow)
    checkpointer.save(20, {'x': jnp.ones(3)}, {'metric': 3.0})
    monkeypatch.setattr(checkpointer, 'wait', lambda: (waited.set(), wait())[1])
    # The one on its way counts, and a step is not compared with itself.
    assert not checkpointer.is_best(30, 3.0)
    assert checkpointer.is_best(30, 2.9)
    assert checkpointer.is_best(20, 3.5)
    checkpointer.mark_best(40, 1.0)  # a kill came before its save
    assert checkpointer.is_best(30, 2.9)


def test_all_are_kept_if_asked_for(tmp_path):
  save_steps(tmp_path, range(1, 6), keep=None)
  checkpointer = Checkpointer(tmp_path)
  assert checkpointer.steps() == [1, 2, 3, 4, 5]
  assert checkpointer.has(4)
  assert not checkpointer.has(6)
  (tmp_path / '00000004' / 'meta.json').write_text('{"')
  assert not Checkpointer(tmp_path).has(4)


def test_prune_as_in_its_docstring(tmp_path):
  folder = checkpoint_folder.CheckpointFolder(tmp_path, print)
  for step in (10, 20, 30, 40, 50, 60):
    folder.path(step, '.part').mkdir()
    folder.complete(step, '{}')
  (folder.path(40) / 'meta.json').write_text('{"')
  folder = checkpoint_folder.CheckpointFolder(tmp_path, print)
  assert 'another checksum' in folder.damage(40)
  folder.mark(10, 0.5)
  folder.prune(60, keep=3, keep_best=True)
  assert folder.steps() == [10, 30, 50, 60]
  assert sorted(os.listdir(tmp_path)) == [
    '00000010',
    '00000030',
    '00000050',
    '00000060',
    'values.json',
  ]


def test_two_processes_share_the_checksums(tmp_path, monkeypatch):
  """Of a manifest that is the one of one process, and both know all of it."""
  summed, inner = [], files.sha256

  def sha256(path, sync=False):
    summed.append(path.name)
    return inner(path, sync)

  monkeypatch.setattr(files, 'sha256', sha256)
  for step in (1, 2):
    data = tmp_path / f'{step:08d}.part' / 'state'
    data.mkdir(parents=True)
    for name in 'abcde':
      (data / name).write_text(f'{name} of {step}')
  told = [[], []]
  with as_threads.groups(2) as groups:

    def folders():
      return [
        checkpoint_folder.CheckpointFolder(
          tmp_path, told[i].append, groups[i], writes=i == 0
        )
        for i in (0, 1)
      ]

    both = folders()
    complete = lambda i: [both[i].complete(step, '{}') for step in (1, 2)]
    assert as_threads.each(2, complete) == [[None, None]] * 2
    # Once to write and once to compare, by one of them.
    once = sorted(2 * [*'abcde', 'meta.json'])
    assert sorted(summed) == sorted(2 * once)
    newest = lambda i: next(both[i].whole(), None)
    assert as_threads.each(2, newest) == [2, 2]
    assert len(summed) == 2 * len(once)  # they know
    both = folders()
    (tmp_path / '00000002' / 'state' / 'd').write_text('d of 3')
    assert as_threads.each(2, newest) == [1, 1]
  line = (
    f'checkpoint {tmp_path}/00000002 is damaged: state/d has another checksum; '
    'trying the one before'
  )
  assert told == [[line], [line]]
  written = json.loads((tmp_path / '00000002/manifest.json').read_text())
  names = ['meta.json', *(f'state/{name}' for name in 'abcde')]
  assert [*written['files']] == names
  assert manifest.damage(tmp_path / '00000001') is None


def test_nothing_old_goes_before_the_new_one_is_verified(tmp_path, monkeypatch):
  save_steps(tmp_path, [1])
  write = manifest.write_manifest

  def write_and_lose_a_byte(folder, *how):
    write(folder, *how)
    (data,) = [p for p in (folder / 'state').iterdir() if p.name == '_METADATA']
    data.write_bytes(data.read_bytes()[:-1])

  monkeypatch.setattr(manifest, 'write_manifest', write_and_lose_a_byte)
  with Checkpointer(tmp_path, keep=1) as checkpointer:
    checkpointer.save(2, make_state(2), {})
    with pytest.raises(errors.StoppedError, match='reads differently'):
      checkpointer.wait()
    assert os.listdir(tmp_path) == ['00000001']
    assert_same_bits(
      checkpointer.restore_latest(abstract(make_state()))[0], make_state(1)
    )


def test_a_folder_that_is_a_file(tmp_path):
  (tmp_path / 'c').write_text('')
  with Checkpointer(tmp_path / 'c') as checkpointer:
    with pytest.raises(errors.StoppedError, match='Not a directory'):
      checkpointer.save(1, make_state(1), {})
    assert checkpointer.latest() is None


def test_the_step_at_hand_is_not_saved_again(tmp_path):
  with Checkpointer(tmp_path) as checkpointer:
    checkpointer.save(1, make_state(1), {'a': 1})
    checkpointer.save(1, make_state(2), {'a': 2})
    assert checkpointer.latest() == (1, {'a': 1})
    checkpointer.save(2, make_state(2), {'a': 2})
    # Back to 1, and then another way: this 2 is another state.
    checkpointer.restore(1, abstract(make_state()))
    checkpointer.save(2, make_state(3), {'a': 3})
    state, extra = checkpointer.restore_latest(abstract(make_state()))
  assert extra == {'a': 3}
  assert_same_bits(state, make_state(3))


@pytest.mark.parametrize(
  ('change', 'text'),
  [
    (
      lambda s: {'a': {'w': jnp.ones((2, 4))}, 'b': s['b']},
      r'a/w is float32\[2,3\] in it and float32\[2,4\] here;',
    ),
    (
      lambda s: jax.tree.map(lambda x: x.astype(jnp.bfloat16), s),
      r'a/w is float32\[2,3\] in it and bfloat16\[2,3\] here \(and 1 more\);',
    ),
    (lambda s: {**s, 'c': jnp.ones(1)}, 'it lacks c;'),
    (lambda s: {'a': s['a']}, 'b is in it and not here;'),
  ],
)
def test_another_model_is_a_clear_error(tmp_path, change, text):
  state = {'a': {'w': jnp.ones((2, 3))}, 'b': jnp.ones(1)}
  with Checkpointer(tmp_path) as checkpointer:
    checkpointer.save(1, state, {})
    with pytest.raises(errors.InputError, match=text) as error:
      checkpointer.restore_latest(change(state))
  assert '\n' not in str(error.value)
  assert str(error.value).startswith(f'checkpoint {tmp_path}/00000001 is of')


def test_a_part_of_the_state(tmp_path):
  state = make_state(1)
  with Checkpointer(tmp_path) as checkpointer:
    checkpointer.save(1, state, {})
    part = {'params': abstract(state.params)}
    found, _ = checkpointer.restore_latest(part, partial=True)
    assert_same_bits(found, {'params': state.params})
    with pytest.raises(errors.InputError, match='it lacks blocks/0/w'):
      checkpointer.restore_latest(part['params'], partial=True)


def test_a_step_that_is_not_there(tmp_path):
  save_steps(tmp_path, [1, 2])
  with (
    Checkpointer(tmp_path) as checkpointer,
    pytest.raises(errors.InputError, match=r'no checkpoint 3 .* are: 1, 2'),
  ):
    checkpointer.restore(3, abstract(make_state()))


def test_keep_must_be_one_or_more(tmp_path):
  with pytest.raises(errors.InputError, match='cannot keep 0 checkpoints'):
    Checkpointer(tmp_path, keep=0)


def test_what_is_no_array_is_refused(tmp_path):
  with Checkpointer(tmp_path) as checkpointer:
    with pytest.raises(TypeError, match='a/key is a PRNG key; save jax.random'):
      checkpointer.save(1, {'a': {'key': jax.random.key(0)}}, {})
    with pytest.raises(TypeError, match='n is no array but int'):
      checkpointer.save(1, {'n': 3}, {})
    with pytest.raises(TypeError, match='same path'):
      checkpointer.save(1, {'a/b': jnp.ones(1), 'a': {'b': jnp.ones(1)}}, {})
    with pytest.raises(TypeError, match='not JSON serializable'):
      checkpointer.save(1, {'n': jnp.ones(1)}, {'x': object()})
  assert os.listdir(tmp_path) == []


def test_meta_is_readable_json(tmp_path):
  save_steps(tmp_path, [1])
  meta = json.loads((tmp_path / '00000001' / 'meta.json').read_text())
  assert meta['step'] == 1
  assert meta['leaves']['params/blocks/0/w'] == 'bfloat16[2,3,4]'
  assert meta['extra'] == {'next_step': 1}
