"""Locks: one of ours, one of another, and file systems that have none."""

import errno
import fcntl
import subprocess
import sys

import pytest

from moejax.core import errors, files, locks

# Lustre, some NFS, some FUSE; and one that no list would have.
NONE = ['ENOSYS', 'ENOTSUP', 'EOPNOTSUPP', 'ENOLCK', 'EINVAL', 'ENOTTY']


@pytest.fixture
def flock_fails(monkeypatch):
  """Makes every flock fail with an error number."""

  def fails(name):
    def flock(file, kind):
      raise OSError(getattr(errno, name), 'as the system says it')

    monkeypatch.setattr(fcntl, 'flock', flock)

  return fails


def test_one_may_have_an_exclusive_lock_and_many_a_shared_one(tmp_path):
  opened = [open(tmp_path / 'a', 'w') for _ in range(4)]  # noqa: SIM115
  assert locks.take(opened[0])
  assert not locks.take(opened[1])
  assert not locks.take(opened[1], shared=True)
  opened[0].close()
  assert locks.take(opened[1], shared=True)
  assert locks.take(opened[2], shared=True)
  assert not locks.take(opened[3])
  for file in opened:
    file.close()


@pytest.mark.parametrize('name', ['EWOULDBLOCK', 'EAGAIN', 'EACCES'])
def test_only_a_lock_that_is_held_is_in_use(name, flock_fails, tmp_path):
  flock_fails(name)
  said = []
  with (
    pytest.raises(errors.InputError, match='is in use by another process'),
    files.locked(tmp_path, said.append),
  ):
    pass
  assert said == []


@pytest.mark.parametrize('name', NONE)
def test_without_locks_it_is_said_and_goes_on(name, flock_fails, tmp_path):
  flock_fails(name)
  said, ran = [], []
  with files.locked(tmp_path, said.append):
    ran.append(True)
  assert ran
  (line,) = said
  assert line.startswith(f'The file system of {tmp_path} has no locks (')
  assert len(line.splitlines()) == 1


def test_an_operating_system_without_shared_locks(tmp_path, monkeypatch):
  """Windows has exclusive ones."""
  monkeypatch.setitem(sys.modules, 'fcntl', None)
  with open(tmp_path / 'a', 'w') as file:
    with pytest.raises(locks.NoLocksError, match='not on this operating sys'):
      locks.take(file, shared=True)
    assert locks.take(file)


def test_a_lock_is_free_when_its_process_is_killed(tmp_path):
  code = (
    'import sys, time\n'
    'from moejax.core import locks\n'
    'file = open(sys.argv[1], "w")\n'
    'print(locks.take(file), flush=True)\n'
    'time.sleep(600)\n'
  )
  command = [sys.executable, '-c', code, str(tmp_path / 'a')]
  with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as other:
    assert other.stdout.readline() == 'True\n'
    with open(tmp_path / 'a') as file:
      assert not locks.take(file)
      other.kill()
      other.wait()
      assert locks.take(file)


def test_a_folder_is_kept_until_the_block_ends(tmp_path):
  code = (
    'import sys\n'
    'from moejax.core import locks\n'
    'with open(sys.argv[1] + "/.lock", "w") as file:\n'
    '  print(locks.take(file))\n'
  )

  def free():
    command = [sys.executable, '-c', code, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return done.stdout.strip()

  with files.locked(tmp_path, print):
    assert free() == 'False'
  assert free() == 'True'


def test_an_object_store_has_no_lock_and_nothing_is_said(flock_fails):
  flock_fails('ENOSYS')
  with files.locked('gs://bucket/run', pytest.fail):
    pass
