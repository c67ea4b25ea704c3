"""Text in an object store: found by the same rule, read as from a disk."""

import gzip
import json

import pytest
from helpers import far

from moejax.core import errors
from moejax.data import build, config, files, opening, patterns, vocab


@pytest.fixture(name='bucket')
def _bucket(tmp_path, monkeypatch):
  """A bucket as a local folder: gs://bucket is tmp_path/store/bucket."""
  far.store(monkeypatch, tmp_path / 'store')
  folder = tmp_path / 'store' / 'bucket' / 'c4'
  (folder / 'en').mkdir(parents=True)
  (folder / '.hidden').mkdir()
  for n in range(3):
    lines = ''.join(
      json.dumps({'text': f'document {i} of file {n}', 'url': 'http://a'})
      + '\n'
      for i in range(100)
    )
    path = folder / 'en' / f'c4-train.0000{n}-of-00003.json.gz'
    path.write_bytes(gzip.compress(lines.encode()))
  (folder / '.hidden' / 'a.txt').write_text('hidden')
  (folder / 'en' / 'note.txt').write_text('a note')
  (folder / 'en' / 'README').write_text('no text')
  return folder


@pytest.mark.parametrize(
  'pattern',
  [
    'c4',
    'c4/en',
    'c4/**/*',
    'c4/*/*',
    'c4/en/*.json.gz',
    'c4/en/c4-train.0000?-of-00003.json.gz',
    'c4/en/note.txt',
    'c4/en/note.txt,{}/c4/**/*.gz',
  ],
)
def test_the_rule_is_that_of_files(pattern, bucket):
  here = bucket.parent
  there = 'gs://bucket/' + pattern.format('gs://bucket')
  local = patterns.find('data.files', f'{here}/{pattern.format(here)}')
  found = patterns.find('data.files', there)
  names = [str(path).removeprefix('gs://bucket/') for path in found.paths]
  assert names == [str(p.relative_to(here)) for p in local.paths]
  assert len(found.notes) == len(local.notes)


def test_objects_have_the_documents_of_files(bucket):
  here = files.Files(str(bucket))
  there = files.Files('gs://bucket/c4')
  for split in ('train', 'validation'):
    assert [*there.texts(split)] == [*here.texts(split)]


def test_a_text_of_an_object_store_is_packed(bucket, tmp_path):
  def rows(pattern):
    own = config.DataConfig(
      files=pattern,
      vocab=vocab.Bytes(),
      sequence_length=16,
      cache_dir=str(tmp_path / 'cache'),
    )
    return build.contents(build.build(own, 4, 0))

  assert rows('gs://bucket/c4') == rows(str(bucket))
  made = {path.name for path in (tmp_path / 'cache').iterdir()}
  assert rows('gs://bucket/c4') == rows(str(bucket))
  assert {path.name for path in (tmp_path / 'cache').iterdir()} == made
  # An object that was written anew is another text.
  (bucket / 'en' / 'note.txt').write_text('another note')
  rows('gs://bucket/c4')
  assert {path.name for path in (tmp_path / 'cache').iterdir()} > made


def test_parquet_in_an_object_store(bucket):
  import pyarrow as pa
  from pyarrow import parquet

  table = pa.table({'id': [1, 2], 'content': ['one', 'two']})
  parquet.write_table(table, bucket / 'en' / 'a.parquet')
  own = files.Files('gs://bucket/c4/en/*.parquet', text_field='content')
  assert list(own.all_texts()) == ['one', 'two']


@pytest.mark.parametrize(
  ('pattern', 'words'),
  [
    ('gs://bucket/no/*.txt', 'data.files='),
    ('gs://bucket/c4/en/README', 'is of an unknown kind'),
    ('ftp://bucket/a.txt', 'of the kind ftp:// are not known'),
  ],
)
def test_objects_that_are_not_there_are_one_line(pattern, words, bucket):
  with pytest.raises(errors.InputError) as caught:
    patterns.find('data.files', pattern)
  (line,) = str(caught.value).splitlines()
  assert words in line


def test_a_store_that_does_not_answer_is_one_line(bucket, monkeypatch):
  def fail(*_):
    raise RuntimeError('403 no access\nto the bucket')

  monkeypatch.setattr(far.Store, 'listdir', fail)
  with pytest.raises(errors.InputError) as caught:
    patterns.find('data.files', 'gs://bucket/c4/*.txt')
  assert 'gs://bucket/c4/*.txt cannot be read: 403 no access;' in str(
    caught.value
  )


def test_an_object_is_read_forwards_and_back(bucket):
  from etils import epath

  with opening.plain(epath.Path('gs://bucket/c4/en/note.txt')) as file:
    assert file.read(3) == b'a n'
    file.seek(-4, 2)
    assert file.tell() == 2
    assert file.read() == b'note'


@pytest.mark.parametrize(
  ('scheme', 'reader'),
  [('gs', 'gcsfs or tensorflow'), ('s3', 's3fs'), ('az', 'adlfs')],
)
def test_an_error_names_what_reads_the_store(scheme, reader):
  error = opening.unreachable(f'{scheme}://a/b', ImportError('no reader'))
  assert str(error) == (
    f'{scheme}://a/b cannot be read: no reader; the machine needs access to '
    f'the bucket, and {reader} to read it'
  )
