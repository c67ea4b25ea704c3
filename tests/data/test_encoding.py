"""Encoding in processes: the ids, the order and the rows of one process."""

import json
import os
import pathlib
import re
import signal
import subprocess
import sys

import numpy as np
import pytest

from moejax.core import errors
from moejax.data import cache_writer, encoding, files, long_text, vocab

ROOT = pathlib.Path(__file__).parents[2]
TEXTS = [
  *(f'document {i} é漢🙂 ' * (i % 9) for i in range(90)),
  ''.join(f'a long document, line {i} of it\n' for i in range(200)),
  'a short one behind it',
  ''.join(f'another long one; {i * i}\n' for i in range(100)),
]


@pytest.fixture(autouse=True)
def _small(monkeypatch):
  for name, value in {'LONG': 900, 'PIECE': 400, 'WINDOW': 128}.items():
    monkeypatch.setattr(long_text, name, value)
  for name, value in {'JOB': 300, '_ALONE': 1000}.items():
    monkeypatch.setattr(encoding, name, value)


def _ids(document):
  parts = document.ids_T
  if isinstance(parts, np.ndarray):
    return parts.tolist()
  return np.concatenate(list(parts)).tolist()


@pytest.mark.parametrize('processes', [1, 3])
@pytest.mark.parametrize('ours', [vocab.Bytes(), vocab.SentencePiece()])
def test_ids_are_those_of_each_text_in_order(ours, processes):
  documents = encoding.documents(TEXTS, ours, processes)
  measured = [(_ids(d), d.num_bytes) for d in documents]
  assert measured == [
    ([*ours.encode(text), ours.eos_id], len(text.encode())) for text in TEXTS
  ]


def test_ids_of_a_long_document_may_be_left_unread():
  documents = encoding.documents(TEXTS, vocab.Bytes(), 2)
  sizes = [document.num_bytes for document in documents]
  assert sizes == [len(text.encode()) for text in TEXTS]


def _bytes(folder):
  return {
    str(path.relative_to(folder)): path.read_bytes()
    for path in sorted(folder.rglob('*'))
    if path.suffix in {'.rows', '.json'} and path.name != 'sums.json'
  }


def _own(tmp_path):
  lines = [json.dumps({'text': text}) for text in TEXTS]
  lines[40:40] = ['{broken', '{"text": 3}']
  (tmp_path / 'a.jsonl').write_text('\n'.join(lines))
  (tmp_path / 'b.txt').write_text(TEXTS[-1])
  pattern = f'{tmp_path}/a.jsonl,{tmp_path}/b.txt'
  return files.Files(pattern, bad_lines='skip')


def _pack(text, folder, **options):
  defaults = {'vocab': vocab.SentencePiece(), 'length': 16}
  request = cache_writer.Request(
    folder=folder, rows_per_shard=8, **{**defaults, **options}
  )
  for split in text.splits:
    text.rows(split, request)
  return _bytes(folder)


@pytest.mark.parametrize('max_documents', [0, 30])
def test_the_bytes_of_a_cache_do_not_depend_on_processes(
  max_documents, tmp_path
):
  own = _own(tmp_path)
  one, three = (
    _pack(own, tmp_path / str(n), processes=n, max_documents=max_documents)
    for n in (1, 3)
  )
  assert one == three
  (train,) = (one[name] for name in one if re.match('files-train.*json', name))
  # The first bad line is behind 40 documents of both splits.
  assert len(json.loads(train)['notes']) == (0 if max_documents else 1)


@pytest.mark.soak
def test_an_interrupted_cache_goes_on_with_another_number_of_processes(
  tmp_path,
):
  own = _own(tmp_path)
  whole = _pack(own, tmp_path / 'whole', processes=1)

  def stop(progress):
    if progress.num_tokens > 1500:
      raise KeyboardInterrupt

  with pytest.raises(KeyboardInterrupt):
    _pack(own, tmp_path / 'stopped', processes=3, report=stop)
  assert list((tmp_path / 'stopped').glob('*.part/00003.rows'))
  assert _pack(own, tmp_path / 'stopped', processes=2) == whole


@pytest.mark.soak
def test_an_error_of_a_worker_is_that_of_the_vocabulary():
  with pytest.raises(errors.InputError, match='came without a tokenizer'):
    list(encoding.documents(['text'] * 999, _Late(), 2))


class _Late(vocab.Ids):
  """Fails in a worker only."""

  def encode_batch(self, texts):
    return [[1]] * len(texts)


def test_a_worker_that_is_killed_is_one_line():
  with pytest.raises(errors.InputError) as caught:
    list(encoding.documents(['text'] * 999, _Dying(), 2))
  message = str(caught.value)
  assert len(message.splitlines()) == 1
  assert 'ended early (SIGKILL)' in message
  assert 'finished shards are kept' in message


class _Dying(vocab.Bytes):
  """Ends the process of a worker."""

  def encode(self, text):
    os.kill(os.getpid(), signal.SIGKILL)

  def encode_batch(self, texts):
    return [[1]] * len(texts)


@pytest.mark.soak
def test_what_a_library_prints_in_a_worker_is_no_result(capfd):
  assert len(list(encoding.documents(['text'] * 999, _Talking(), 2))) == 999


class _Talking(vocab.Bytes):
  """Writes to standard output while it encodes."""

  def encode(self, text):
    os.write(1, b'talks')
    return [5]


def test_workers_end_at_once_when_no_more_is_wanted(monkeypatch):
  """Whatever they do, and before the call returns."""
  started, real = [], subprocess.Popen

  def popen(*args, **options):
    started.append(real(*args, **options))
    return started[-1]

  monkeypatch.setattr(subprocess, 'Popen', popen)
  documents = encoding.documents(['text'] * 9999, vocab.Bytes(), 2)
  for _ in range(600):
    next(documents)
  assert [process.returncode for process in started] == [None, None]
  documents.close()
  assert [process.returncode for process in started] == [-signal.SIGKILL] * 2


@pytest.mark.soak
def test_a_worker_loads_a_tokenizer_of_its_own():
  """A loaded one may lose settings when it is sent."""
  ours = _Loaded()
  vars(ours)['tokenizer'] = 'loaded here'
  documents = encoding.documents(['text'] * 999, ours, 2)
  assert {tuple(_ids(d)) for d in documents} == {
    (0, ours.eos_id),  # of this process
    (1, ours.eos_id),
  }


class _Loaded(vocab.Bytes):
  """Encodes 2 with the tokenizer of another process, else 1."""

  def encode(self, text):
    return [1 + ('tokenizer' in vars(self))]

  def encode_batch(self, texts):
    return [[0]] * len(texts)


def test_a_worker_encodes_on_one_thread(monkeypatch):
  """Whatever the environment says, since each core has a worker."""
  monkeypatch.setenv('RAYON_NUM_THREADS', '4')
  monkeypatch.setenv('TOKENIZERS_PARALLELISM', 'true')
  ours = _Threads()
  documents = encoding.documents(['text'] * 999, ours, 2)
  assert {tuple(_ids(d)) for d in documents} == {
    (0, ours.eos_id),  # of this process
    (1, len('false'), ours.eos_id),
  }


class _Threads(vocab.Bytes):
  """Encodes the settings of the process that it is in."""

  def encode(self, text):
    names = 'RAYON_NUM_THREADS', 'TOKENIZERS_PARALLELISM'
    threads, parallel = (os.environ[name] for name in names)
    return [int(threads), len(parallel)]

  def encode_batch(self, texts):
    return [[0]] * len(texts)


def test_a_worker_imports_no_jax():
  code = (
    'import sys; from moejax.data import encoding; '
    'print([m for m in ("jax", "tensorflow", "flax") if m in sys.modules])'
  )
  done = subprocess.run(
    [sys.executable, '-c', code],
    env={**os.environ, 'PYTHONPATH': str(ROOT)},
    capture_output=True,
    text=True,
    check=True,
  )
  assert done.stdout == '[]\n'


def test_a_class_of_the_main_script_is_encoded_by_its_own_process(monkeypatch):
  monkeypatch.setattr(_Dying, '__module__', '__main__')
  assert len(list(encoding.documents(['text'] * 999, _Dying(), 2))) == 999


ENDLESS = """
import itertools
from moejax.data import encoding, vocab

def texts():
  for i in itertools.count():
    yield f'text {i} ' * 1000

if __name__ == '__main__':
  encoding._ALONE = 1
  for number, _ in enumerate(encoding.documents(texts(), vocab.Bytes(), 2)):
    if number == 999:
      print('running', flush=True)
"""


def test_workers_do_not_outlive_a_killed_process():
  process = subprocess.Popen(
    [sys.executable, '-c', ENDLESS],
    env={**os.environ, 'PYTHONPATH': str(ROOT)},
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
    text=True,
  )
  assert process.stdout.readline() == 'running\n'
  process.kill()
  # The end of stderr is read when no process is left that has it open.
  assert process.communicate(timeout=60) == ('', '')
