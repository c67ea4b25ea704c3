"""Records on disk: made once, resumed to the byte, checked when opened."""

import dataclasses
import errno
import json
import os
import pathlib
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest

from moejax.core import errors
from moejax.core import files as core_files
from moejax.data import (
  cache,
  cache_writer,
  features,
  files,
  packings,
  vocab,
)
from moejax.data.seqio_bridge import Document

ROOT = pathlib.Path(__file__).parents[2]


@dataclasses.dataclass(frozen=True)
class Words(cache_writer.TextSource):
  """Documents that need no files."""

  count: int = 30
  seed: int = 0
  fail_at: int = -1
  largest: int = 258

  name = 'words'

  def identity(self, split, sums):
    return {'count': self.count, 'seed': self.seed}

  def all(self):
    rng = np.random.default_rng(self.seed)
    for _ in range(self.count):
      ids_T = rng.integers(2, self.largest + 1, rng.integers(0, 30))
      yield Document(np.append(ids_T, 1).astype(np.int32), len(ids_T))

  def documents(self, split, vocab, *, skip, note):
    try:
      for index, document in enumerate(self.all()):
        if index == self.fail_at:
          raise KeyboardInterrupt
        if index >= skip:
          yield document
    finally:  # as for bad documents, wherever reading ends
      note('the end')


def _request(folder, **kwargs):
  defaults = {
    'vocab': vocab.Bytes(),
    'length': 8,
    'folder': folder,
    'rows_per_shard': 3,
  }
  return cache_writer.Request(**{**defaults, **kwargs})


def _files(path):
  return {p.name: p.read_bytes() for p in sorted(path.iterdir())}


def test_a_cache_holds_what_packing_gives(tmp_path):
  text = Words()
  made = text.rows('train', _request(tmp_path))
  documents = [d.ids_T for d in text.all() if len(d.ids_T) > 1]
  ((want, _),) = features.pack(documents, 8)
  found = made.rows(np.arange(made.num_rows))
  np.testing.assert_array_equal(found.target_NL, want.target_NL)
  np.testing.assert_array_equal(found.segment_NL, want.segment_NL)
  assert made.num_tokens == sum(map(len, documents))
  assert made.num_bytes == sum(d.num_bytes for d in text.all())
  assert made.meta.num_documents == len(documents) < 30
  assert made.meta.notes == ('the end',)
  assert len(made.meta.shards) > 10
  made.verify()


def test_rows_come_in_any_order_and_repeated(tmp_path):
  made = Words().rows('train', _request(tmp_path))
  whole = made.rows(np.arange(made.num_rows))
  index_N = np.array([17, 0, 4, 4, 16, 3])
  some = made.rows(index_N)
  np.testing.assert_array_equal(some.target_NL, whole.target_NL[index_N])
  np.testing.assert_array_equal(some.segment_NL, whole.segment_NL[index_N])
  assert made.rows(np.array([], int)).target_NL.shape == (0, 8)


def test_the_size_of_shards_changes_nothing_in_the_rows(tmp_path):
  index_N = np.arange(40)
  one, other = (
    Words().rows('train', _request(tmp_path, rows_per_shard=n)).rows(index_N)
    for n in (3, 0)
  )
  np.testing.assert_array_equal(one.target_NL, other.target_NL)
  np.testing.assert_array_equal(one.segment_NL, other.segment_NL)


def test_a_cache_is_made_once(tmp_path):
  Words().rows('train', _request(tmp_path))
  broken = Words(fail_at=0)  # would raise if it were read again
  broken.rows('train', _request(tmp_path))


@pytest.mark.parametrize(
  ('text', 'split', 'changes'),
  [
    (Words(seed=1), 'train', {}),
    (Words(), 'validation', {}),
    (Words(), 'train', {'length': 9}),
    (Words(), 'train', {'vocab': vocab.SentencePiece()}),
    (Words(), 'train', {'max_documents': 5}),
  ],
)
def test_whatever_changes_the_rows_changes_the_folder(
  text, split, changes, tmp_path
):
  first = Words().rows('train', _request(tmp_path))
  assert text.rows(split, _request(tmp_path, **changes)).path != first.path


def test_equal_rows_have_equal_contents_whatever_they_were_made_from(tmp_path):
  class Renamed(Words):
    name = 'other words'

  def contents(text, **changes):
    return text.rows('train', _request(tmp_path, **changes)).contents

  first = contents(Words())
  assert contents(Renamed()) == first
  assert contents(Words(), max_documents=1000) == first
  assert contents(Words(seed=1)) != first
  assert contents(Words(), max_documents=5) != first
  assert contents(Words(), length=9) != first


def test_max_documents_takes_the_first(tmp_path):
  made = Words().rows('train', _request(tmp_path, max_documents=4))
  first = [d.ids_T for d in list(Words().all())[:4] if len(d.ids_T) > 1]
  found = made.rows(np.arange(made.num_rows))
  np.testing.assert_array_equal(
    found.target_NL[found.segment_NL != 0], np.concatenate(first)
  )


@pytest.mark.parametrize('stops', [(7,), (1, 2, 3), (12, 28), (29,)])
@pytest.mark.parametrize('max_documents', [0, 29])
def test_an_interrupted_cache_goes_on_to_the_same_bytes(
  stops, max_documents, tmp_path
):
  request = _request(tmp_path / 'a', max_documents=max_documents)
  whole = Words().rows('train', request)
  request = _request(tmp_path / 'b', max_documents=max_documents)
  for stop in stops:
    if stop != max_documents:
      with pytest.raises(KeyboardInterrupt):
        Words(fail_at=stop).rows('train', request)
  resumed = Words().rows('train', request)
  assert resumed.path.name == whole.path.name
  assert _files(resumed.path) == _files(whole.path)


def test_finished_shards_are_not_written_again(tmp_path):
  request = _request(tmp_path)
  with pytest.raises(KeyboardInterrupt):
    Words(fail_at=25).rows('train', request)
  (part,) = tmp_path.glob('*.part')
  kept = json.loads((part / 'progress.json').read_text())['shards']
  times = {s['file']: (part / s['file']).stat().st_mtime_ns for s in kept}
  assert len(times) > 5
  made = Words().rows('train', request)
  for file, when in times.items():
    assert (made.path / file).stat().st_mtime_ns == when


PACKINGS = [packings.Sequential(), packings.BestFit(window_rows=4)]


def _overwrite(path):
  path.write_bytes(b'\0' * path.stat().st_size)


@pytest.mark.parametrize('packing', PACKINGS)
@pytest.mark.parametrize('damage', [_overwrite, os.unlink])
@pytest.mark.parametrize('damaged', [(0,), (3,), (1, 5), ()])
def test_damaged_shards_alone_are_written_again(
  packing, damage, damaged, tmp_path
):
  whole = Words().rows('train', _request(tmp_path / 'a', packing=packing))
  notes = []
  request = _request(tmp_path / 'b', packing=packing, report=notes.append)
  with pytest.raises(KeyboardInterrupt):
    Words(fail_at=25).rows('train', request)
  (part,) = (tmp_path / 'b').glob('*.part')
  kept = json.loads((part / 'progress.json').read_text())['shards']
  times = {s['file']: (part / s['file']).stat().st_mtime_ns for s in kept}
  assert len(times) > 5
  for number in damaged:
    damage(part / f'{number:05d}.rows')
  notes.clear()
  resumed = Words().rows('train', request)
  assert _files(resumed.path) == _files(whole.path)
  mended = {
    int(file.partition('.')[0])
    for file, when in times.items()
    if (resumed.path / file).stat().st_mtime_ns != when
  }
  assert mended == {*damaged}
  # The text is said to have ended once.
  assert [x.note for x in notes if x.note] == ['the end']


def test_shards_that_do_not_belong_together_are_all_written_again(tmp_path):
  """A text that reads differently now; and progress of an earlier version."""
  whole = Words().rows('train', _request(tmp_path / 'a'))
  for change in ('text', 'version'):
    request = _request(tmp_path / change)
    with pytest.raises(KeyboardInterrupt):
      Words(fail_at=25).rows('train', request)
    (part,) = (tmp_path / change).glob('*.part')
    progress = json.loads((part / 'progress.json').read_text())
    if change == 'text':
      progress['shards'][1]['sha256'] = '0' * 64  # of another text
    else:
      del progress['after']
      (part / '00001.rows').write_bytes(b'')
    (part / 'progress.json').write_text(json.dumps(progress))
    resumed = Words().rows('train', request)
    assert _files(resumed.path) == _files(whole.path), change


SLOW = """
import pathlib, sys, time
from moejax.data import cache_writer, encoding, files, vocab

encoding.JOB = 1  # characters

class Slow(files.Files):
  def stream(self, *args, **kwargs):
    for text in super().stream(*args, **kwargs):
      time.sleep(0.01)
      yield text

request = cache_writer.Request(
  vocab.Bytes(), 32, pathlib.Path(sys.argv[2]), rows_per_shard=2
)
Slow(sys.argv[1]).rows('train', request)
"""


def test_sigkill_loses_one_shard_at_most(tmp_path):
  lines = [json.dumps({'text': f'document {i} ' * (i % 7)}) for i in range(300)]
  (tmp_path / 'a.jsonl').write_text('\n'.join(lines))
  own = files.Files(str(tmp_path / 'a.jsonl'))

  def request(name):
    return cache_writer.Request(
      vocab.Bytes(), 32, tmp_path / name, rows_per_shard=2
    )

  whole = own.rows('train', request('whole'))
  killed = tmp_path / 'killed'
  process = subprocess.Popen(
    [sys.executable, '-c', SLOW, own.pattern, str(killed)],
    env={**os.environ, 'PYTHONPATH': str(ROOT)},
  )
  deadline = time.monotonic() + 60
  while not list(killed.glob('*.part/00003.rows')):
    assert process.poll() is None
    assert time.monotonic() < deadline
    time.sleep(0.005)
  process.send_signal(signal.SIGKILL)
  assert process.wait() == -signal.SIGKILL
  (part,) = killed.glob('*.part')
  done = json.loads((part / 'progress.json').read_text())['shards']
  assert 3 <= len(done) < len(whole.meta.shards)
  resumed = own.rows('train', request('killed'))
  assert resumed.path.name == whole.path.name
  assert _files(resumed.path) == _files(whole.path)


def test_two_at_once_make_one_cache(tmp_path):
  read, notes, made = [], [], []

  class Slow(Words):
    def documents(self, split, vocab, *, skip, note):
      read.append(split)
      time.sleep(0.5)
      return super().documents(split, vocab, skip=skip, note=note)

  def make():
    request = _request(tmp_path, report=lambda p: notes.append(p.note))
    made.append(Slow().rows('train', request))

  threads = [threading.Thread(target=make) for _ in range(3)]
  for thread in threads:
    thread.start()
  for thread in threads:
    thread.join()
  assert read == ['train']
  assert len(made) == 3
  assert notes.count('waiting for another process to make it') == 2


def _damaged(path):
  with pytest.raises(errors.InputError) as caught:
    cache.RowCache(path).verify()
  message = str(caught.value)
  assert len(message.splitlines()) == 1
  assert str(path) in message
  assert 'delete the folder' in message
  return message


@pytest.mark.parametrize('limit', [0, 2**28])
def test_every_flipped_byte_is_found(limit, tmp_path, monkeypatch):
  monkeypatch.setattr(cache, '_VERIFIED_WHEN_OPENED', limit)
  made = Words(count=5).rows('train', _request(tmp_path))
  shard = made.path / made.meta.shards[-1].file
  good = bytearray(shard.read_bytes())
  for at in range(0, len(good), 13):
    bad = good.copy()
    bad[at] ^= 1
    shard.write_bytes(bad)
    assert f'{shard.name} has another checksum' in _damaged(made.path)


def test_a_flipped_byte_of_a_small_cache_is_found_when_opened(
  tmp_path, monkeypatch
):
  made = Words().rows('train', _request(tmp_path))
  size = sum(shard.size for shard in made.meta.shards)
  shard = made.path / '00002.rows'
  data = bytearray(shard.read_bytes())
  data[5] ^= 1
  shard.write_bytes(data)
  monkeypatch.setattr(cache, '_VERIFIED_WHEN_OPENED', size)
  with pytest.raises(errors.InputError, match=r'00002\.rows has another check'):
    Words().rows('train', _request(tmp_path))
  # Of a larger one only the sizes are looked at.
  monkeypatch.setattr(cache, '_VERIFIED_WHEN_OPENED', size - 1)
  Words().rows('train', _request(tmp_path))


@pytest.mark.parametrize('flip', [1, 16, 128])
def test_every_flipped_byte_of_meta_json_is_found(flip, tmp_path):
  made = Words(count=2).rows('train', _request(tmp_path))
  meta = made.path / cache.META
  good = bytearray(meta.read_bytes())
  for at in range(0, len(good), 3):
    bad = good.copy()
    bad[at] ^= flip
    meta.write_bytes(bad)
    assert 'meta.json cannot be read' in _damaged(made.path)
  meta.write_bytes(good)
  cache.RowCache(made.path)


def test_a_shard_that_cannot_be_read_is_one_line(tmp_path, monkeypatch):
  made = Words().rows('train', _request(tmp_path))

  def broken(path):
    raise OSError(errno.EIO, 'Input/output error')

  monkeypatch.setattr(core_files, 'sha256', broken)
  assert '00000.rows Input/output error' in _damaged(made.path)


def test_small_files_are_written_whole_by_core(tmp_path, monkeypatch):
  written, real = [], core_files.atomic_write_text

  def record(path, text):
    written.append(path.name)
    real(path, text)

  monkeypatch.setattr(core_files, 'atomic_write_text', record)
  made = Words(count=2).rows('train', _request(tmp_path))
  shards = len(made.meta.shards)
  assert written == ['progress.json'] * shards + ['meta.json']
  assert set(_files(made.path)) == {
    'meta.json',
    *(shard.file for shard in made.meta.shards),
  }


def test_a_truncated_or_missing_file_is_found_when_opened(tmp_path):
  made = Words().rows('train', _request(tmp_path))
  shard = made.path / '00002.rows'
  data = shard.read_bytes()
  shard.write_bytes(data[:-1])
  message = f'00002.rows has {len(data) - 1} bytes where {len(data)} were'
  with pytest.raises(errors.InputError, match=message):
    Words().rows('train', _request(tmp_path))
  shard.unlink()
  with pytest.raises(errors.InputError, match=r'00002\.rows No such file'):
    cache.RowCache(made.path)
  shard.write_bytes(data)
  (made.path / cache.META).write_text('{"half')
  assert 'meta.json cannot be read' in _damaged(made.path)


@pytest.mark.parametrize('largest', [300, 259])
def test_ids_outside_the_vocabulary(largest, tmp_path):
  with pytest.raises(errors.InputError) as caught:
    Words(largest=largest, count=500).rows('train', _request(tmp_path))
  assert 'outside the vocabulary, whose ids are 1 to 258' in str(caught.value)


def test_a_folder_that_cannot_be_written(tmp_path):
  (tmp_path / 'file').write_text('')
  with pytest.raises(errors.InputError, match='cannot be written'):
    Words().rows('train', _request(tmp_path / 'file' / 'cache'))


def test_a_full_disk_is_one_line_and_loses_nothing(tmp_path, monkeypatch):
  whole = Words().rows('train', _request(tmp_path / 'a'))
  calls = []

  def full(handle):
    calls.append(handle)
    if len(calls) > 20:
      raise OSError(errno.ENOSPC, 'No space left on device')

  monkeypatch.setattr(os, 'fsync', full)
  with pytest.raises(errors.InputError) as caught:
    Words().rows('train', _request(tmp_path / 'b'))
  assert 'no space left in' in str(caught.value)
  assert 'data.cache_dir' in str(caught.value)
  monkeypatch.undo()
  (part,) = (tmp_path / 'b').glob('*.part')
  assert json.loads((part / 'progress.json').read_text())['shards']
  resumed = Words().rows('train', _request(tmp_path / 'b'))
  assert _files(resumed.path) == _files(whole.path)


def test_a_text_without_documents_is_an_empty_cache(tmp_path):
  made = Words(count=0).rows('train', _request(tmp_path))
  assert made.num_rows == made.num_tokens == 0
