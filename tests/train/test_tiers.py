"""Two places for checkpoints: which is taken, and what may fail."""

import shutil
import time
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import as_threads

from moejax.core import errors
from moejax.train import checkpoint_folder, state_files
from moejax.train.checkpoint import Checkpointer
from moejax.train.tiers import Tiers


def state(step):
  return {'w': jnp.full((3, 4), float(step)), 'n': jnp.int32(step)}


def near(folder, warn, keep=1):
  return Checkpointer(folder, keep=keep, keep_best=False, own=True, warn=warn)


class Two:
  """A workdir's folder and a fast disk's, and what was told."""

  def __init__(self, folder):
    self.folder = folder
    self.told = []

  def open(self):
    warn = self.told.append
    return Tiers(
      Checkpointer(self.folder / 'durable', warn=warn),
      near(self.folder / 'near', warn),
      warn,
    )

  def save(self, durable=(), near=()):
    tiers = self.open()
    for step in durable:
      tiers.save(step, state(step), {'from': 'durable'})
    for step in near:
      tiers.save_near(step, state(step), {'from': 'near'})
    tiers.wait()

  def restored(self):
    found = self.open().restore_latest(state(0))
    if found is None:
      return None
    got, extra = found
    step = int(got['n'])
    np.testing.assert_array_equal(got['w'], np.full((3, 4), step))
    return step, extra['from']

  def harm(self, name, step):
    folder = self.folder / name / f'{step:08d}' / 'state'
    path = max(
      (p for p in folder.rglob('*') if p.is_file()),
      key=lambda p: p.stat().st_size,
    )
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 4
    path.write_bytes(data)


@pytest.fixture
def two(tmp_path):
  return Two(tmp_path)


@pytest.mark.parametrize(
  ('durable', 'near', 'want'),
  [
    ((), (), None),
    ((2,), (), (2, 'durable')),
    ((2,), (1, 3), (3, 'near')),
    ((2, 4), (3,), (4, 'durable')),
    ((4,), (4,), (4, 'durable')),
    ((), (1,), (1, 'near')),
  ],
)
def test_the_newer_is_taken(two, durable, near, want):
  two.save(durable, near)
  assert two.restored() == want
  assert two.told == []
  kept = [*(two.folder / 'near').glob('0*')]
  assert len(kept) == min(len(near), 1)


def test_the_newer_is_taken_only_if_it_is_whole(two):
  two.save([2, 4], [5])
  two.harm('near', 5)
  assert two.restored() == (4, 'durable')
  assert any('another checksum' in line for line in two.told)
  two.harm('durable', 4)
  assert two.restored() == (2, 'durable')


def test_the_fast_disk_helps_when_the_workdir_cannot(two):
  two.save([2], [3])
  two.harm('durable', 2)
  assert two.restored() == (3, 'near')
  two.harm('near', 3)
  with pytest.raises(errors.InputError, match='durable can be used'):
    two.restored()


def test_a_fast_disk_that_fails_is_told_of_and_left(two):
  (two.folder / 'near').write_text('a file where the folder should be')
  tiers = two.open()
  tiers.save_near(1, state(1), {})
  tiers.save_near(2, state(2), {})  # it is not tried again
  tiers.save(3, state(3), {'from': 'durable'})
  tiers.check()
  tiers.wait()
  (line,) = two.told
  assert 'Not a directory' in line
  assert line.endswith('going on without train.local_checkpoints')
  assert two.restored() == (3, 'durable')


class PlainFiles:
  """Orbax is of one thread; with real processes: multi_host/test_runs.py."""

  def __init__(self, own):
    pass

  def begin_write(self, folder, tree):
    folder.mkdir(parents=True)
    np.savez(folder / 'state.npz', **tree)

  def read(self, folder, abstract, stored_as):
    with np.load(folder / 'state.npz') as arrays:
      return {name: arrays[stored_as[name]] for name in abstract}

  def wait(self):
    pass

  close = wait


class Several:
  """Two processes as threads: each has a fast disk, and its part of a state."""

  def __init__(self, folder, groups):
    self.folder, self.groups = folder, groups
    self.told = [[], []]

  def open(self, index):
    warn = self.told[index].append
    return Tiers(
      Checkpointer(self.folder / 'durable', warn=warn),
      near(self.folder / f'disk_{index}', warn, keep=2),
      warn,
      self.groups[index],
    )

  def both(self, work):
    """What `work(tiers, index)` returns in each."""
    found = as_threads.each(2, lambda index: work(self.open(index), index))
    for one in found:
      assert not isinstance(one, Exception), found
    return found

  def save(self, *steps, only=None):
    def work(tiers, index):
      for step in steps:
        tiers.save_near(step, state(step + index / 2), {})
      tiers.wait()

    self.both(work)
    for step in steps:
      if only is not None:  # as if the other had been killed before
        path = self.folder / f'disk_{1 - only}' / f'{step:08d}'
        path.rename(path.with_suffix('.part'))

  def restored(self):
    """The step that they go on from, and the part that each has."""

    def work(tiers, _):
      found = tiers.restore_latest(state(0))
      return None if found is None else float(found[0]['w'][0, 0])

    return self.both(work)


@pytest.fixture
def several(tmp_path, monkeypatch):
  monkeypatch.setattr(state_files, 'StateFiles', PlainFiles)
  with as_threads.groups(2) as groups:
    yield Several(tmp_path, groups)


def test_several_take_the_newest_that_all_have(several):
  several.save(2, 4)
  several.save(6, only=1)
  assert several.restored() == [4.0, 4.5]
  assert several.told == [[], []]
  # The run goes another way from there, so the newer part is of no use.
  assert not (several.folder / 'disk_1' / '00000006').exists()


def test_parts_of_two_runs_are_no_checkpoint(several):
  """One was killed before its save: what it has is of the time before."""
  several.save(2)
  several.save(4)
  old = several.folder / 'disk_0' / '00000004'
  kept = several.folder / 'kept'
  shutil.copytree(old, kept)
  several.save(4)  # again, by processes that were started again
  assert several.restored() == [4.0, 4.5]
  shutil.rmtree(old)
  kept.rename(old)
  assert several.restored() == [2.0, 2.5]


def test_a_part_that_is_damaged_or_gone_is_none(several):
  several.save(2, 4)
  Two.harm(several, 'disk_1', 4)
  assert several.restored() == [2.0, 2.5]
  assert any('another checksum' in line for line in several.told[1])
  shutil.rmtree(several.folder / 'disk_0')
  assert several.restored() == [None, None]


def test_what_another_mesh_has_left_is_not_used(several, monkeypatch):
  several.save(2)
  monkeypatch.setattr(state_files, 'held', lambda tree: 'other parts')
  assert several.restored() == [None, None]
  for told in several.told:
    assert any('on another mesh' in line for line in told)


def test_what_a_process_holds():
  """Half of a leaf by two devices of eight is not all of it."""
  mesh = jax.make_mesh((8,), ('data',))
  split = jax.NamedSharding(mesh, jax.P('data'))
  leaf = jax.ShapeDtypeStruct((16, 3), jnp.float32, sharding=split)
  one = jax.ShapeDtypeStruct((16, 3), jnp.float32)
  assert state_files.held({'w': leaf}) == state_files.held({'w': one})

  class OfProcess1:
    """The same, where this process has the last two devices."""

    def __init__(self):
      self.addressable_devices = {*mesh.devices[-2:]}
      self.devices_indices_map = split.devices_indices_map

  part = types.SimpleNamespace(
    shape=(16, 3), dtype=leaf.dtype, sharding=OfProcess1()
  )
  assert state_files.held({'w': part}) != state_files.held({'w': one})
  assert state_files._own_shards(part.sharding, (16, 3)) == [
    ((12, 14), (0, 3)),
    ((14, 16), (0, 3)),
  ]


def test_a_save_begins_when_all_have_completed_the_one_before(
  several, monkeypatch
):
  """Else one could remove what the other still needs."""
  inner = checkpoint_folder.CheckpointFolder.complete
  done = []

  def complete(self, step, meta):
    if self.folder.name == 'disk_1':
      time.sleep(0.3)
    inner(self, step, meta)
    done.append((step, self.folder.name))

  monkeypatch.setattr(checkpoint_folder.CheckpointFolder, 'complete', complete)
  several.save(1, 2, 3)
  assert [step for step, _ in done] == [1, 1, 2, 2, 3, 3]


def test_where_one_disk_fails_the_others_do_not_wait(several):
  (several.folder / 'disk_1').write_text('a file where the folder should be')
  several.save(2, 4)
  assert several.told[0] == []
  assert several.told[1][0].endswith('without train.local_checkpoints')
  assert several.restored() == [None, None]


def keeping(folder):
  """Checkpoints of a run that keeps weights, one process's."""
  return Tiers(
    Checkpointer(folder / 'durable', keep=1),
    kept=Checkpointer(folder / 'kept', keep=None),
  )


def kept_weights(folder):
  """By step, the number that all weights have."""
  kept = Checkpointer(folder / 'kept')
  like = {'weights': {'w': state(0)['w']}}
  weights = {s: kept.restore(s, like)[0]['weights'] for s in kept.steps()}
  return {s: np.unique(np.asarray(x['w'])).item() for s, x in weights.items()}


def test_kept_weights_outlive_all_states_and_are_saved_once(tmp_path):
  tiers = keeping(tmp_path)
  for step in range(4):
    tiers.keep(step, {'w': state(step)['w']}, {'step': step})
    tiers.save(step, state(step), {})
  tiers.keep(2, {'w': state(7)['w']}, {})  # it is there already
  tiers.wait()
  assert kept_weights(tmp_path) == {0: 0, 1: 1, 2: 2, 3: 3}
  assert Checkpointer(tmp_path / 'durable').steps() == [3]
  assert Checkpointer(tmp_path / 'kept').extra(1) == {'step': 1}


def test_earlier_weights_are_on_disk_before_a_state_from_which_to_resume(
  tmp_path, monkeypatch
):
  """A kill between the two must not lose them: nobody comes there again."""
  inner = checkpoint_folder.CheckpointFolder.complete
  order = []

  def complete(self, step, meta):
    if self.folder.name == 'kept':
      time.sleep(0.2)  # a slow disk
    inner(self, step, meta)
    order.append((self.folder.name, step))

  monkeypatch.setattr(checkpoint_folder.CheckpointFolder, 'complete', complete)
  tiers = Tiers(
    Checkpointer(tmp_path / 'durable'),
    near(tmp_path / 'near', print),
    kept=Checkpointer(tmp_path / 'kept', keep=None),
  )
  tiers.keep(1, {'w': jnp.ones(2)}, {})
  tiers.save(2, state(2), {})
  tiers.keep(3, {'w': jnp.ones(2)}, {})
  tiers.save_near(4, state(4), {})
  tiers.wait()
  assert order == [('kept', 1), ('durable', 2), ('kept', 3), ('near', 4)]


def test_a_run_that_goes_on_takes_later_weights_anew(tmp_path):
  tiers = keeping(tmp_path)
  for step in (0, 2, 4):
    tiers.keep(step, {'w': state(step)['w']}, {})
  tiers.wait()
  tiers.forget_kept_after(3)
  assert kept_weights(tmp_path) == {0: 0, 2: 2}
  tiers.keep(4, {'w': state(9)['w']}, {})
  tiers.wait()
  assert kept_weights(tmp_path) == {0: 0, 2: 2, 4: 9}
  tiers.forget_kept_after(-1)
  assert kept_weights(tmp_path) == {}


def test_kept_weights_that_cannot_be_written_stop_the_run(tmp_path):
  (tmp_path / 'kept').write_text('a file where the folder should be')
  tiers = keeping(tmp_path)
  with pytest.raises(errors.StoppedError, match='kept/00000001'):
    tiers.keep(1, {'w': jnp.ones(2)}, {})
  tiers.save(2, state(2), {})
  tiers.wait()
