"""Checksums of text: each file is read once, and again when it has changed."""

import hashlib
import json
import os
import time

import pytest

from moejax.core import errors
from moejax.core import files as core_files
from moejax.data import sums


@pytest.fixture
def read(monkeypatch):
  """The names of the files that were read for a checksum, in order."""
  names, real = [], core_files.sha256

  def record(path):
    names.append(path.name)
    return real(path)

  monkeypatch.setattr(core_files, 'sha256', record)
  return names


@pytest.fixture
def text(tmp_path, monkeypatch):
  """A file that was written long ago, as far as `sums` can tell."""
  monkeypatch.setattr(sums, '_TICK_S', -60)
  path = tmp_path / 'a.txt'
  path.write_text('some text')
  return path


def _of(path):
  """The checksum, asked for as a new process would."""
  (found,) = sums.Sums(path.parent / 'caches').of([path])
  assert found == hashlib.sha256(path.read_bytes()).hexdigest()
  return found


def test_a_file_that_has_not_changed_is_read_once(text, read):
  for _ in range(3):
    _of(text)
  assert read == ['a.txt']
  alike = sums.Sums(text.parent / 'other caches')
  for _ in range(3):
    alike.of([text, text])
  assert read == ['a.txt', 'a.txt']


@pytest.mark.parametrize(
  'change',
  [
    lambda path: os.utime(path, ns=(0, 0)),
    lambda path: path.write_text('other txt'),
    lambda path: path.write_text('more text than before'),
  ],
)
def test_a_file_that_has_changed_is_read_again(change, text, read):
  _of(text)
  time.sleep(0.05)  # the clock of a file system may tick a few times a second
  change(text)
  for _ in range(2):
    _of(text)
  assert read == ['a.txt'] * 2


def test_a_change_that_sets_the_old_time_is_seen(text, read):
  """As by `cp --preserve` or `rsync --times`."""
  _of(text)
  before = text.stat()
  time.sleep(0.05)
  text.write_text('TEXT some')
  os.utime(text, ns=(before.st_atime_ns, before.st_mtime_ns))
  assert text.stat().st_mtime_ns == before.st_mtime_ns
  assert text.stat().st_size == before.st_size
  _of(text)
  assert read == ['a.txt'] * 2


def test_a_file_that_was_just_written_is_not_trusted(text, read, monkeypatch):
  monkeypatch.setattr(sums, '_TICK_S', 60)
  _of(text)
  _of(text)
  assert read == ['a.txt'] * 2


def test_a_link_is_known_by_its_file(text, read):
  _of(text)
  link = text.parent / 'b.txt'
  link.symlink_to('a.txt')
  _of(link)
  assert read == ['a.txt']


@pytest.mark.parametrize(
  'record', ['{"half', '[]', '{"a.txt": 1}', '{"a": []}']
)
def test_a_damaged_record_is_made_anew(record, text, read):
  (text.parent / 'caches').mkdir()
  (text.parent / 'caches' / sums.RECORD).write_text(record)
  for _ in range(2):
    _of(text)
  assert read == ['a.txt']


def test_a_record_that_cannot_be_written_stops_nothing(text, read):
  (text.parent / 'caches').write_text('a file')
  _of(text)


def test_two_texts_keep_one_record(text, read):
  other = text.with_name('b.txt')
  other.write_text('more')
  one, two = (sums.Sums(text.parent / 'caches') for _ in range(2))
  one.of([])
  two.of([other])
  one.of([text])
  _of(text)
  _of(other)
  assert sorted(read) == ['a.txt', 'b.txt']


def test_files_that_are_gone_are_forgotten(text):
  other = text.with_name('b.txt')
  other.write_text('more')
  _of(text)
  _of(other)
  other.unlink()
  half = text.parent / 'caches' / f'{sums.RECORD}.0123.part'
  half.write_text('{"of a process that was killed')
  assert sums.forget_missing(text.parent / 'caches') == 1
  assert not half.exists()
  assert sums.forget_missing(text.parent / 'caches') == 0
  record = json.loads((text.parent / 'caches' / sums.RECORD).read_text())
  assert list(record) == [os.path.realpath(text)]


def test_a_file_that_changes_while_it_is_read_is_one_line(text, monkeypatch):
  def sha256(path):
    path.write_text('more and more')
    return 'of neither'

  monkeypatch.setattr(core_files, 'sha256', sha256)
  with pytest.raises(errors.InputError, match='changed while it was read'):
    sums.Sums(text.parent).of([text])


def test_a_file_that_is_gone_is_one_line(tmp_path):
  with pytest.raises(
    errors.InputError, match=r'a\.txt cannot be read: No such'
  ):
    sums.Sums(tmp_path).of([tmp_path / 'a.txt'])


def test_much_text_is_said(text, monkeypatch):
  monkeypatch.setattr(sums, '_LONG', 9)
  said = []
  for _ in range(2):
    sums.Sums(text.parent / 'caches', said.append).of([text])
  (line,) = said
  assert 'GB of text for its checksums' in line
