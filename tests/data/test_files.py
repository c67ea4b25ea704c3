"""The user's own files: every kind, how they are split, and what is wrong."""

import gzip
import hashlib
import json
import os
import sys

import pyarrow as pa
import pytest
from pyarrow import parquet

from moejax.core import errors
from moejax.data import cache_writer, files, sums, vocab

TEXTS = ['first\ndocument', 'second: é漢🙂', 'third "quoted" \\ one', 'x']


def _lines(texts, field='text'):
  return ''.join(json.dumps({'id': 1, field: t}) + '\n' for t in texts)


def _write(path, texts, field='text'):
  if path.name.endswith('.jsonl'):
    path.write_text(_lines(texts, field))
  elif path.name.endswith('.gz'):
    path.write_bytes(gzip.compress(_lines(texts, field).encode()))
  elif path.name.endswith('.parquet'):
    table = pa.table({'id': range(len(texts)), field: texts})
    parquet.write_table(table, path)
  else:
    (text,) = texts
    path.write_text(text)


def _texts(pattern, split='train', **kwargs):
  return list(files.Files(str(pattern), **kwargs).texts(split))


def _error(pattern, **kwargs):
  """The one line that reading the files ends in."""
  with pytest.raises(errors.InputError) as caught:
    _texts(pattern, **kwargs)
  message = str(caught.value)
  assert len(message.splitlines()) == 1
  return message


@pytest.mark.parametrize('name', ['a.jsonl', 'a.jsonl.gz', 'a.parquet'])
def test_every_kind_gives_the_same_documents(name, tmp_path):
  _write(tmp_path / name, TEXTS, 'body')
  found = files.Files(str(tmp_path / name), text_field='body')
  assert list(found.all_texts()) == TEXTS


def test_a_folder_a_glob_and_a_list_find_files_in_order(tmp_path):
  deep = tmp_path / 'deep' / 'er'
  deep.mkdir(parents=True)
  (tmp_path / 'b.txt').write_text('b')
  (tmp_path / 'a.txt').write_text('a')
  (tmp_path / 'notes.md').write_text('of no known kind, so passed over')
  _write(deep / 'c.jsonl', ['c'])

  def found(pattern):
    return list(files.Files(pattern).all_texts())

  assert found(str(tmp_path)) == ['a', 'b', 'c']
  assert found(f'{tmp_path}/*.txt') == ['a', 'b']
  assert found(f'{tmp_path}/**/*.jsonl') == ['c']
  assert found(f'{tmp_path}/b.txt,{deep}') == ['b', 'c']
  assert found(f'{tmp_path}/b.txt,{tmp_path}/*.txt') == ['a', 'b']


def test_many_documents_are_split_by_their_hash(tmp_path):
  texts = [f'document {i}' for i in range(1000)]
  _write(tmp_path / 'a.jsonl', texts)
  train, held_out = (_texts(tmp_path, s) for s in ('train', 'validation'))
  assert sorted(train + held_out) == sorted(texts)
  assert 30 <= len(held_out) <= 70
  # More documents, in another order: each stays where it was.
  _write(tmp_path / 'a.jsonl', texts[::-1] + ['one more'])
  assert set(held_out) == set(_texts(tmp_path, 'validation')) - {'one more'}


def test_few_documents_give_their_last_lines(tmp_path):
  lines = [f'line {i}\n' for i in range(200)]
  (tmp_path / 'a.txt').write_text(''.join(lines))
  (train,), (held_out,) = (_texts(tmp_path, s) for s in ('train', 'validation'))
  assert train + held_out == ''.join(lines)
  assert train.endswith('\n')
  assert held_out.startswith('line ')
  assert 0.03 < len(held_out) / len(''.join(lines)) < 0.06


def test_validation_files_are_never_trained_on(tmp_path):
  for name in ('a', 'b', 'v'):
    _write(tmp_path / f'{name}.jsonl', [name])
  held_out = {'validation': f'{tmp_path}/v.jsonl'}
  assert _texts(tmp_path, 'train', **held_out) == ['a', 'b']
  assert _texts(tmp_path, 'validation', **held_out) == ['v']
  assert 'leave out data.validation_files' in _error(
    tmp_path / 'v.jsonl', validation=str(tmp_path)
  )


def test_documents_are_ids_with_eos_and_bytes(tmp_path):
  _write(tmp_path / 'a.jsonl', TEXTS)
  _write(tmp_path / 'v.jsonl', ['v'])
  own = files.Files(f'{tmp_path}/a.jsonl', validation=f'{tmp_path}/v.jsonl')
  model = vocab.SentencePiece()
  found = list(own.documents('train', model, skip=0, note=print))
  assert [d.ids_T.tolist() for d in found] == [
    [*model.encode(text), 1] for text in TEXTS
  ]
  assert [d.num_bytes for d in found] == [len(t.encode()) for t in TEXTS]
  rest = list(own.documents('train', model, skip=2, note=print))
  assert [d.ids_T.tolist() for d in rest] == [
    d.ids_T.tolist() for d in found[2:]
  ]


def test_nothing_matches(tmp_path):
  message = _error(tmp_path / '*.jsonl')
  assert f"data.files='{tmp_path}/*.jsonl': no file there matches" in message
  assert '.parquet' in message
  _write(tmp_path / 'a.jsonl', ['a'])
  assert 'data.validation_files' in _error(tmp_path, validation='/nowhere/x')


def test_a_name_that_is_there_is_not_taken_for_a_glob(tmp_path):
  deep = tmp_path / 'd[1]'
  deep.mkdir()
  for name in ('a[1].txt', 'a1.txt', 'b*.txt', 'b2.txt'):
    (deep / name).write_text(name)

  def found(pattern):
    return list(files.Files(f'{tmp_path}/{pattern}').all_texts())

  assert found('d[1]/a[1].txt') == ['a[1].txt']
  assert found('d[1]/b*.txt') == ['b*.txt']
  assert found('d[1]') == ['a1.txt', 'a[1].txt', 'b*.txt', 'b2.txt']
  # What is not there is a glob as ever.
  assert found('d*/a[0-9].txt') == ['a1.txt']


def test_an_unknown_kind(tmp_path):
  (tmp_path / 'a.csv').write_text('text\n')
  line = _error(tmp_path / 'a.csv')
  assert 'a.csv is of an unknown kind' in line
  assert 'give a text of another kind a name that ends in .txt' in line


def test_a_file_that_may_not_be_read(tmp_path):
  path = tmp_path / 'a.jsonl'
  os.symlink('a.jsonl', path)  # to itself: opening it fails even for root
  assert 'symbolic links' in _error(path)


BAD = [
  ('{"text": "cut off', 'not JSON'),
  ('["a", "list"]', 'not a JSON object'),
  ('{"body": "a"}', "no field 'text' (data.text_field); has 'body'"),
  ('{"text": null}', 'holds NoneType, not text'),
  ('{"text": "\\ud800"}', 'half a surrogate'),
  ('[' * 100_000, 'not JSON'),
]


@pytest.mark.parametrize(('line', 'problem'), BAD)
def test_bad_lines_are_counted_and_the_first_is_named(line, problem, tmp_path):
  good = _lines(['good'])
  (tmp_path / 'a.jsonl').write_text(good + good + line + '\n' + good)
  (tmp_path / 'b.jsonl').write_text(good + line + '\n')
  message = _error(tmp_path)
  assert message.startswith('2 bad documents, the first is ')
  assert f'{tmp_path}/a.jsonl:3: ' in message
  assert problem in message
  assert 'data.bad_lines=skip' in message


@pytest.mark.parametrize('name', ['a.jsonl', 'a.jsonl.gz', 'a.parquet'])
def test_a_file_without_the_field_in_any_row_is_an_error(name, tmp_path):
  """Though bad documents are left out: a wrong `text_field` is more likely."""
  _write(tmp_path / name, ['a', 'b'], 'body')
  _write(tmp_path / 'b.jsonl', ['good'])
  message = _error(tmp_path, bad_lines='skip')
  assert "'text' (data.text_field)" in message
  assert 'no row of the file has it' in message


def test_identity_follows_the_contents_not_the_name(tmp_path):
  path = tmp_path / 'a.jsonl'
  _write(path, ['a'])

  def identity():
    return files.Files(str(tmp_path)).identity('train', sums.Sums(tmp_path))

  before = identity()
  path.rename(tmp_path / 'z.jsonl')
  os.utime(tmp_path / 'z.jsonl', ns=(0, 0))
  assert identity() == before
  _write(tmp_path / 'z.jsonl', ['b'])
  assert identity() != before


def _request(folder):
  return cache_writer.Request(vocab.Bytes(), 8, folder)


def test_a_large_file_that_was_touched_or_moved_is_packed_once(
  tmp_path, monkeypatch
):
  monkeypatch.setattr(files, '_FORMERLY_HASHED', 3)
  path = tmp_path / 'a.jsonl'
  _write(path, TEXTS)
  made = files.Files(str(path)).rows('train', _request(tmp_path / 'c')).path
  os.utime(path, ns=(0, 0))
  path.rename(tmp_path / 'b.jsonl')
  again = files.Files(str(tmp_path)).rows('train', _request(tmp_path / 'c'))
  assert again.path == made


def test_a_cache_named_by_the_time_of_a_large_file_is_still_found(
  tmp_path, monkeypatch
):
  """Before, files over 64 MB were known by path, size and time."""
  monkeypatch.setattr(files, '_FORMERLY_HASHED', 30)
  small, large = tmp_path / 'a.jsonl', tmp_path / 'b.jsonl'
  _write(small, ['s'])
  _write(large, TEXTS)
  digest = hashlib.sha256(small.read_bytes()).hexdigest()
  status = large.stat()

  class Before(files.Files):
    def identity(self, split, sums):
      return {
        'files': [
          ['.jsonl', small.stat().st_size, digest],
          [str(large), status.st_size, status.st_mtime_ns],
        ],
        'text_field': 'text',
        'bad_lines': 'stop',
        'fraction': 0.05,
      }

    def former_identity(self, split, sums):
      return None

  made, found = (
    kind(str(tmp_path)).rows('train', _request(tmp_path / 'c'))
    for kind in (Before, files.Files)
  )
  assert found.path == made.path
  os.utime(large, ns=(0, 0))
  made_anew = files.Files(str(tmp_path)).rows('train', _request(tmp_path / 'c'))
  assert made_anew.path != made.path
  assert made_anew.contents == made.contents


def test_parquet_without_pyarrow_is_one_line(tmp_path, monkeypatch):
  _write(tmp_path / 'a.parquet', TEXTS)
  monkeypatch.setitem(sys.modules, 'pyarrow', None)  # as if not installed
  message = _error(tmp_path)
  assert 'a.parquet needs pyarrow' in message
  assert 'pip install pyarrow' in message


@pytest.mark.parametrize('fraction', [1e-30, 5e-324])
def test_next_to_nothing_for_validation(fraction, tmp_path):
  _write(tmp_path / 'a.jsonl', TEXTS)
  assert _texts(tmp_path, fraction=fraction) == TEXTS
  assert _texts(tmp_path, 'validation', fraction=fraction) == []


def _zstandard(text):
  import pyarrow

  return pyarrow.Codec('zstd').compress(text.encode(), asbytes=True)


# Rows as the sources publish them: name of a file, text field, other fields.
PUBLISHED = [
  ('c4-train.00000-of-01024.json.gz', 'text', {'timestamp': '', 'url': ''}),
  ('chunk1/example_train_0.jsonl.zst', 'text', {'meta': {'set': 'C4'}}),
  ('shard_00000000_processed.jsonl.zst', 'text', {'url': '', 'warcinfo': ''}),
  (
    'cc_en_head-0000.json.gz',
    'text',
    {'id': 'a', 'added': '', 'created': '', 'source': 'c4', 'metadata': {}},
  ),
  ('wiki-0000.json.zst', 'text', {'id': '1', 'title': 't'}),
  ('data-00000-of-00144.jsonl', 'content', {'lang': 'Python', 'size': 3}),
]


@pytest.mark.parametrize(('name', 'field', 'others'), PUBLISHED)
def test_files_in_the_form_of_their_source(tmp_path, name, field, others):
  words = ['one', 'two é', 'three']
  lines = ''.join(json.dumps({**others, field: w}) + '\n' for w in words)
  compress = {'.gz': lambda t: gzip.compress(t.encode()), '.zst': _zstandard}
  path = tmp_path / name
  path.parent.mkdir(exist_ok=True)
  path.write_bytes(compress.get(path.suffix, str.encode)(lines))
  own = files.Files(str(tmp_path), text_field=field)
  assert list(own.all_texts()) == words


def test_zstandard_that_was_cut_off_is_damaged(tmp_path):
  whole = _zstandard('{"text": "a"}\n' * 9)
  (tmp_path / 'a.jsonl.zst').write_bytes(whole[:-6])
  (tmp_path / 'b.jsonl.zst').write_bytes(whole + whole)  # frames on end
  assert 'damaged, cannot be read' in _error(tmp_path)
  own = files.Files(str(tmp_path), bad_lines='skip')
  assert len(list(own.all_texts())) >= 18
