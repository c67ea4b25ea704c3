"""Old caches: which may go, which stay, and what is no cache."""

import errno
import fcntl
import json
import os
import shutil
import time

import pytest

from moejax.core import errors
from moejax.data import cache, cache_writer, files, prune, vocab

NOW = 2e9  # seconds since 1970


@pytest.fixture
def make(tmp_path):
  """Packs a text into a cache that was last used so many days ago."""

  def make(text, days):
    path = tmp_path / f'{len(text)}.txt'
    path.write_text(text)
    request = cache_writer.Request(vocab.Bytes(), 8, tmp_path / 'caches')
    made = files.Files(str(path)).rows('train', request).path
    _age(made, days)
    return made

  (tmp_path / 'caches').mkdir()
  return make


def _age(path, days):
  then = NOW - days * prune.DAY
  for file in (*path.iterdir(), path):
    os.utime(file, (then, then))


def _entries(folder, days=30):
  return {e.path.name: e for e in prune.entries(folder, days, NOW)}


def test_what_was_not_used_for_long_may_go(make, tmp_path):
  old, new = make('old ' * 99, 31), make('new', 29)
  found = _entries(tmp_path / 'caches')
  assert list(found) == [old.name, new.name]  # the longest unused one first
  assert [e.kept for e in found.values()] == ['', 'used recently']
  assert found[old.name].size == sum(f.stat().st_size for f in old.iterdir())
  assert found[old.name].used == NOW - 31 * prune.DAY
  assert prune.remove(old)
  assert not old.exists()
  assert list(_entries(tmp_path / 'caches')) == [new.name]
  cache.RowCache(new).verify()


def test_opening_a_cache_is_using_it(make, tmp_path):
  path = make('text', 31)
  before = time.time()
  cache.RowCache(path)
  used = _entries(tmp_path / 'caches')[path.name].used
  assert before - 1 <= used <= time.time() + 1


def test_an_older_version_used_it_by_reading_it(make, tmp_path):
  path = make('text', 31)
  os.utime(path / cache.META, (NOW, NOW - 31 * prune.DAY))
  assert _entries(tmp_path / 'caches')[path.name].used == NOW


def test_a_cache_that_is_open_stays(make, tmp_path):
  path = make('text', 31)
  opened = cache.RowCache(path)
  also = cache.RowCache(path)  # as by a second run
  _age(path, 31)
  assert _entries(tmp_path / 'caches')[path.name].kept == 'in use'
  assert not prune.remove(path)
  del opened
  assert _entries(tmp_path / 'caches')[path.name].kept == 'in use'
  also.verify()
  del also
  assert _entries(tmp_path / 'caches')[path.name].kept == ''
  assert prune.remove(path)


def _unfinished(make):
  path = make('text', 31)
  part = path.rename(path.with_name(path.name + '.part'))
  (part / cache.META).rename(part / cache_writer.PROGRESS)
  _age(part, 31)
  return part


def test_an_unfinished_cache_goes_unless_it_is_being_written(make, tmp_path):
  part = _unfinished(make)
  lock = part.with_name(f'.{part.name.removesuffix(".part")}.lock')
  with lock.open('w') as file:
    fcntl.flock(file, fcntl.LOCK_EX)
    assert _entries(tmp_path / 'caches')[part.name].kept == 'in use'
    assert not prune.remove(part)
  assert _entries(tmp_path / 'caches')[part.name].kept == ''
  assert prune.remove(part)
  assert not part.exists()


def test_a_removal_that_was_interrupted_is_finished(
  make, tmp_path, monkeypatch
):
  path = make('text', 31)

  def broken(path):
    next(path.glob('*.rows')).unlink()
    raise OSError(errno.EIO, 'Input/output error')

  monkeypatch.setattr(shutil, 'rmtree', broken)
  with pytest.raises(
    errors.InputError, match='cannot be removed: Input/output'
  ):
    prune.remove(path)
  monkeypatch.undo()
  assert not path.exists()  # nobody finds a half of it
  (entry,) = _entries(tmp_path / 'caches', days=1e6).values()
  assert entry.kept == ''
  assert prune.remove(entry.path)
  assert _entries(tmp_path / 'caches') == {}


def test_what_is_no_cache_is_never_listed(make, tmp_path):
  path = make('text', 31)
  name = 'mine-0123456789abcdef'
  folder = tmp_path / 'caches'
  for other in (name, 'photos', f'{path.name}-copy', 'part-0123456789abcdeg'):
    (folder / other).mkdir()
    (folder / other / cache.META).write_text('{}')
  (folder / name / 'thesis.tex').write_text('the only copy')
  (folder / 'empty-0123456789abcdef').mkdir()
  (folder / 'file-0123456789abcdef').write_text('')
  (folder / 'link-0123456789abcdef').symlink_to(path)
  assert list(_entries(folder)) == [path.name]


def test_baselines_beside_the_rows_go_with_them(make, tmp_path):
  path = make('text', 31)
  (path / 'baselines-files-train-0123-0.json').write_text('{}')
  assert list(_entries(tmp_path / 'caches')) == [path.name]


def test_without_locks_the_time_alone_decides(make, tmp_path, monkeypatch):
  def flock(file, kind):
    raise OSError(errno.ENOSYS, 'Function not implemented')

  monkeypatch.setattr(fcntl, 'flock', flock)
  old, new = make('old ' * 99, 31), make('new', 29)
  kept = {name: e.kept for name, e in _entries(tmp_path / 'caches').items()}
  assert kept == {old.name: '', new.name: 'used recently'}
  assert prune.remove(old)


def test_a_cache_on_a_file_system_without_locks(tmp_path, monkeypatch):
  def flock(file, kind):
    raise OSError(errno.ENOSYS, 'Function not implemented')

  monkeypatch.setattr(fcntl, 'flock', flock)
  (tmp_path / 'a.txt').write_text('some text')
  notes = []
  request = cache_writer.Request(
    vocab.Bytes(), 8, tmp_path / 'caches', report=lambda p: notes.append(p.note)
  )
  made = files.Files(str(tmp_path / 'a.txt')).rows('train', request)
  assert made.num_rows
  (note,) = filter(None, notes)
  assert note.startswith(
    f'the file system of {tmp_path}/caches has no locks (Function not'
  )


def test_text_that_is_gone_is_forgotten(tmp_path):
  (tmp_path / 'sums.json').write_text(
    json.dumps({str(tmp_path / 'gone.txt'): [[1, 2, 3], 'ab']})
  )
  assert prune.forget(tmp_path) == 1
  assert json.loads((tmp_path / 'sums.json').read_text()) == {}


def test_a_folder_that_is_not_there_is_one_line(tmp_path):
  with pytest.raises(errors.InputError, match='cannot be read: No such file'):
    prune.entries(tmp_path / 'no', 30, NOW)
