"""The estimate of the work before packing, from texts of known size."""

import gzip
import json
import types

import pytest
from helpers import far

from moejax.core import errors
from moejax.data import (
  cache_writer,
  estimate,
  features,
  files,
  stepped,
  tasks,
  vocab,
)
from moejax.data.steps import STEPS

LINE = 9  # letters of each document


def _jsonl(path, count, letters=LINE):
  rows = [json.dumps({'text': 'x' * letters}) + '\n'] * count
  path.write_text(''.join(rows))


def _expected(sample, tmp_path, **options):
  request = cache_writer.Request(vocab.Bytes(), 8, tmp_path, **options)
  return estimate.expected(sample, request)


def test_files_that_are_read_whole_are_known_exactly(tmp_path):
  """Twenty files, of which eight or less are read."""
  for number in range(20):
    _jsonl(tmp_path / f'{number:02}.jsonl', 15)
  sample = files.Files(str(tmp_path), validation=str(tmp_path / '00.jsonl'))
  train = sample.sample('train')
  assert train.document_bytes == LINE
  assert train.num_documents == pytest.approx(19 * 15)
  assert len(train.texts) == 15 * 7  # of each third file: 0, 3, ... 18
  work = _expected(train, tmp_path)
  assert work.num_bytes == 19 * 15 * LINE
  assert work.num_tokens == 19 * 15 * (LINE + 1)  # with EOS
  assert sample.sample('validation').num_documents == 15


@pytest.mark.parametrize(
  ('limit', 'documents'), [(0, 300), (40, 40), (300, 300), (9999, 300)]
)
def test_a_limit_of_documents_bounds_the_work(limit, documents, tmp_path):
  _jsonl(tmp_path / 'a.jsonl', 300)
  _jsonl(tmp_path / 'b.jsonl', 5)
  own = files.Files(str(tmp_path / 'a.jsonl'), str(tmp_path / 'b.jsonl'))
  work = _expected(own.sample('train'), tmp_path, max_documents=limit)
  assert work.num_bytes == documents * LINE
  assert work.num_tokens == documents * (LINE + 1)
  row = features.row_dtype(8, vocab.Bytes().size).itemsize
  assert work.row_bytes == -(-work.num_tokens // 8) * row


def test_documents_are_counted_from_the_head_of_a_file(tmp_path, monkeypatch):
  monkeypatch.setattr(estimate, '_HEAD', 3000)
  _jsonl(tmp_path / 'a.jsonl', 1000)  # 22 bytes a line: 136 lines, and a part
  own = files.Files(str(tmp_path / 'a.jsonl'), str(tmp_path / 'a.jsonl'))
  sample = own.sample('validation')
  assert len(sample.texts) == 136
  assert sample.num_documents == pytest.approx(1000 * 136 * 22 / 3000)


def test_a_text_file_is_one_document(tmp_path, monkeypatch):
  monkeypatch.setattr(estimate, '_HEAD', 64)
  for number in range(3):
    (tmp_path / f'{number}.txt').write_text('word ' * 100)
  (tmp_path / 'held_out.txt').write_text('short')
  own = files.Files(f'{tmp_path}/?.txt', f'{tmp_path}/held_out.txt')
  sample = own.sample('train')
  assert sample.num_documents == pytest.approx(3)
  assert sample.document_bytes == pytest.approx(500)
  assert own.sample('validation').num_documents == pytest.approx(1)


def test_validation_has_its_share(tmp_path):
  """Of many documents some; of few the end of each."""
  _jsonl(tmp_path / 'many.jsonl', 400)
  _jsonl(tmp_path / 'few.jsonl', 5)
  many, few = (
    files.Files(str(tmp_path / f'{name}.jsonl')).sample('validation')
    for name in ('many', 'few')
  )
  assert many.num_documents == pytest.approx(400 * 0.05)
  assert many.document_bytes == LINE
  assert few.num_documents == pytest.approx(5)
  assert few.document_bytes == pytest.approx(LINE * 0.05)


def test_the_rows_of_a_parquet_file_are_in_its_metadata(tmp_path, monkeypatch):
  import pyarrow as pa
  from pyarrow import parquet

  monkeypatch.setattr(estimate, '_CHARS', 100)
  words = [f'{i:04}' * 25 for i in range(600)]
  path = tmp_path / 'a.parquet'
  parquet.write_table(
    pa.table({'text': words}), path, compression='none', use_dictionary=False
  )
  sample = files.Files(str(path), str(path)).sample('validation')
  assert sample.num_documents == 600
  assert len(sample.texts) == 1
  # Pages have four bytes of length for each value, and headers.
  assert 100 < sample.document_bytes < 106


def test_objects_of_a_store_are_sampled_as_files(tmp_path, monkeypatch):
  """Without a question for each object: sizes are those of the sample."""
  far.store(monkeypatch, tmp_path / 'store')
  folder = tmp_path / 'store' / 'bucket'
  folder.mkdir(parents=True)
  for number in range(12):
    lines = (json.dumps({'text': f'{number} {i}'}) + '\n' for i in range(50))
    data = gzip.compress(''.join(lines).encode(), mtime=0)
    (folder / f'{number:02}.jsonl.gz').write_bytes(data)
  asked = []
  real = estimate.opening.size
  monkeypatch.setattr(
    estimate.opening, 'size', lambda path: asked.append(path) or real(path)
  )
  here = files.Files(str(folder)).sample('train')
  assert len(asked) == 6 + 12
  asked.clear()
  there = files.Files('gs://bucket').sample('train')
  assert len(asked) == 6
  assert there.texts == here.texts
  assert there.document_bytes == here.document_bytes
  assert there.num_documents == pytest.approx(here.num_documents, rel=0.02)


def _hub(monkeypatch, count, **options):
  """A text of the hub whose split has three rows and says it has `count`."""
  rows = [{'text': 'x' * LINE}] * 3
  splits = {'train': types.SimpleNamespace(num_examples=count)}
  found = types.SimpleNamespace(
    select_columns=lambda _: types.SimpleNamespace(
      skip=lambda n: rows[n:], take=lambda n: rows[:n]
    ),
    info=types.SimpleNamespace(splits=None if count is None else splits),
  )
  monkeypatch.setattr(tasks.HuggingFace, '_stream', lambda *_: found)
  return tasks.HuggingFace('hub', 'some/path', **({'held_out': 1} | options))


def test_a_text_of_the_hub_says_how_many_rows_it_has(monkeypatch, tmp_path):
  monkeypatch.setattr(estimate, '_HEAD', 5)  # one document
  text = _hub(monkeypatch, 1000)
  train, validation = map(text.sample, ('train', 'validation'))
  assert train == (['x' * LINE], LINE, 999, '')
  assert validation.num_documents == 1
  assert _expected(train, tmp_path).num_bytes == 999 * LINE


@pytest.mark.parametrize('options', [{'count': None}, {'folder': 'python'}])
def test_where_nobody_says_it_a_limit_does(options, monkeypatch, tmp_path):
  """The numbers in a repository are about all of its folders."""
  monkeypatch.setattr(estimate, '_HEAD', 5)
  sample = _hub(monkeypatch, **({'count': 1000} | options)).sample('train')
  assert sample.num_documents is None
  assert _expected(sample, tmp_path) is None
  work = _expected(sample, tmp_path, max_documents=70)
  assert work.num_bytes == 70 * LINE


def test_a_short_stream_is_counted(monkeypatch, tmp_path):
  assert _hub(monkeypatch, None).sample('train').num_documents == 2


def test_a_hub_out_of_reach_is_an_error_of_the_text(monkeypatch):
  """It is not one of the folder to which the cache is written."""

  def unreachable(*_):
    raise OSError('cannot reach the hub')

  monkeypatch.setattr(tasks.HuggingFace, '_stream', unreachable)
  text = tasks.HuggingFace('hub', 'some/path')
  with pytest.raises(
    errors.InputError, match='some/path.*cannot reach the hub'
  ):
    text.sample('train')


def test_steps_leave_the_estimate_of_the_text_before_them(tmp_path):
  _jsonl(tmp_path / 'a.jsonl', 300)
  own = files.Files(str(tmp_path / 'a.jsonl'))
  text = stepped.with_steps(own, {'length': STEPS['length']()})
  before, sample = own.sample('train'), text.sample('train')
  assert sample == before._replace(proviso=stepped.PROVISO)
  assert _expected(sample, tmp_path).proviso == stepped.PROVISO


def test_what_is_packed_already_takes_no_more_time(tmp_path):
  _jsonl(tmp_path / 'a.jsonl', 300)
  sample = files.Files(str(tmp_path / 'a.jsonl')).sample('train')
  request = cache_writer.Request(vocab.Bytes(), 8, tmp_path)
  whole = estimate.expected(sample, request)
  rest = estimate.expected(sample, request, done=whole.num_bytes)
  assert rest == estimate.Expected(
    whole.num_bytes, whole.num_tokens, whole.row_bytes, 0, whole.processes
  )
