"""Two places for checkpoints: which is taken, and what may fail."""

import jax.numpy as jnp
import numpy as np
import pytest

from moejax.core import errors
from moejax.train.checkpoint import Checkpointer
from moejax.train.tiers import Tiers


def state(step):
  return {'w': jnp.full((3, 4), float(step)), 'n': jnp.int32(step)}


class Two:
  """A workdir's folder and a fast disk's, and what was told."""

  def __init__(self, folder):
    self.folder = folder
    self.told = []

  def open(self):
    warn = self.told.append
    return Tiers(
      Checkpointer(self.folder / 'durable', warn=warn),
      Checkpointer(self.folder / 'near', keep=1, keep_best=False, warn=warn),
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
