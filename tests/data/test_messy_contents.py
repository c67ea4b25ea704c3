"""Files whose contents are no text: one rule for every kind of file."""

import gzip
import json

import pyarrow as pa
import pytest
from pyarrow import parquet

from moejax.core import errors
from moejax.data import cache_writer, encoding, files, long_text, readers, vocab


def _write(path, data):
  """Bytes, or a column or table of a Parquet file."""
  if isinstance(data, bytes):
    path.write_bytes(data)
  else:
    table = data if isinstance(data, pa.Table) else pa.table({'text': data})
    parquet.write_table(table, path)


def _strings(values, kind=None):
  """A column of text with whatever bytes."""
  return pa.array(values, pa.binary()).view(kind or pa.string())


def _large(values):
  return pa.array(values, pa.large_binary()).view(pa.large_string())


def _lines(*lines):
  return b''.join(line + b'\n' for line in lines)


def _cut(data, size=-9):
  return gzip.compress(data)[:size]


def _flipped(data, at):
  return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]


def _parquet(values):
  sink = pa.BufferOutputStream()
  parquet.write_table(pa.table({'text': values}), sink, compression='zstd')
  return sink.getvalue().to_pybytes()


GOOD = b'{"text": "a"}'
ROWS = [GOOD, b'{"text": "b"}']
MANY = _parquet([f'text {i}' * 99 for i in range(99)])

# (name, contents, the documents that are good, how many are bad, where the
# first of those is behind the name of the file, what is wrong with it).
CASES = [
  ('plain.txt', b'caf\xc3\xa9\n', ['café\n'], 0, '', ''),
  ('bom.txt', b'\xef\xbb\xbfa', ['a'], 0, '', ''),
  ('crlf.txt', b'a\r\n\r\nb\r', ['a\r\n\r\nb\r'], 0, '', ''),
  ('controls.txt', b'a\x01\x1b[0m\x7f', ['a\x01\x1b[0m\x7f'], 0, '', ''),
  ('empty.txt', b'', [], 1, '', 'empty'),
  ('blank.txt', b' \r\n\t', [], 1, '', 'empty'),
  ('only-bom.txt', b'\xef\xbb\xbf', [], 1, '', 'empty'),
  ('latin-1.txt', b'caf\xe9', [], 1, '', 'not UTF-8 text (byte 3)'),
  ('utf-16.txt', 'a'.encode('utf-16'), [], 1, '', 'but UTF-16'),
  ('utf-16-be.txt', b'\xfe\xff\0a', [], 1, '', 'but UTF-16'),
  ('utf-16-le.txt', 'a b'.encode('utf-16-le'), [], 1, '', 'NUL (character 1)'),
  ('nul.txt', b'text\0', [], 1, '', 'the file has a NUL (character 4)'),
  ('png.txt', b'\x89PNG\r\n\x1a\n\0\0', [], 1, '', 'not UTF-8 text (byte 0)'),
  ('surrogate.txt', b'\xed\xa0\x80', [], 1, '', 'not UTF-8'),
  ('plain.txt.gz', gzip.compress(b'a\nb'), ['a\nb'], 0, '', ''),
  ('Mixed.Txt.GZ', gzip.compress(b'a\nb'), ['a\nb'], 0, '', ''),
  ('latin-1.txt.gz', gzip.compress(b'\xe9'), [], 1, '', 'not UTF-8'),
  ('nul.txt.gz', gzip.compress(b'a\0'), [], 1, '', 'NUL'),
  ('empty.txt.gz', gzip.compress(b''), [], 1, '', 'empty'),
  ('no-gzip.txt.gz', b'plain', [], 1, '', 'damaged, cannot be read: Not a gz'),
  ('cut.txt.gz', _cut(b'text' * 999), [], 1, '', 'damaged, cannot be read: '),
  ('rows.jsonl', _lines(*ROWS), ['a', 'b'], 0, '', ''),
  ('rows.JSONL', _lines(*ROWS), ['a', 'b'], 0, '', ''),
  ('bom.jsonl', b'\xef\xbb\xbf' + _lines(*ROWS), ['a', 'b'], 0, '', ''),
  ('crlf.jsonl', b'\r\n'.join(ROWS), ['a', 'b'], 0, '', ''),
  ('blank.jsonl', _lines(b'', GOOD, b' \t', b''), ['a'], 0, '', ''),
  ('void.jsonl', b'{"text": ""}', [''], 0, '', ''),
  ('empty.jsonl', b'\n \n', [], 1, '', 'empty'),
  ('zero.jsonl', b'', [], 1, '', 'empty'),
  ('cut.jsonl', _lines(GOOD, b'{"text": "b'), ['a'], 1, ':2', 'not JSON'),
  ('list.jsonl', _lines(b'[]', GOOD), ['a'], 1, ':1', 'not a JSON object'),
  ('field.jsonl', _lines(GOOD, b'{"x": 1}'), ['a'], 1, ':2', "no field 'text'"),
  ('int.jsonl', _lines(GOOD, b'{"text": 1}'), ['a'], 1, ':2', 'holds int'),
  ('null.jsonl', b'{"text": null}', [], 1, ':1', 'holds NoneType, not text'),
  ('latin-1.jsonl', _lines(b'{"text": "\xe9"}', GOOD), ['a'], 1, ':1',
   'not UTF-8 text (byte 10)'),
  ('nul.jsonl', _lines(b'{"text": "a\\u0000"}', GOOD), ['a'], 1, ':1',
   "field 'text' has a NUL (character 1)"),
  ('half.jsonl', _lines(b'{"text": "\\ud800"}', GOOD), ['a'], 1, ':1', 'half'),
  ('digits.jsonl', _lines(b'9' * 5000, GOOD), ['a'], 1, ':1', 'not JSON'),
  ('deep.jsonl', _lines(b'[' * 10**5, GOOD), ['a'], 1, ':1', 'not JSON'),
  ('binary.jsonl', bytes(range(256)), [], 2, ':1', 'not JSON'),
  ('several.jsonl', _lines(b'1', GOOD, b'2', b'3'), ['a'], 3, ':1', 'not a'),
  ('rows.jsonl.gz', gzip.compress(_lines(*ROWS)), ['a', 'b'], 0, '', ''),
  ('two.jsonl.gz', gzip.compress(_lines(GOOD)) * 2, ['a', 'a'], 0, '', ''),
  ('cut.jsonl.gz', _cut(_lines(*ROWS), -4), ['a', 'b'], 1, '',
   'damaged, cannot be read beyond document 2: Compressed file ended'),
  ('sum.jsonl.gz', _flipped(gzip.compress(_lines(GOOD)), -8), ['a'], 1, '',
   'damaged, cannot be read beyond document 1: CRC check failed'),
  ('block.jsonl.gz', _flipped(gzip.compress(_lines(GOOD)), 10), [], 1, '',
   'damaged, cannot be read: Error -3 while decompressing'),
  ('rows.parquet', ['a', 'b'], ['a', 'b'], 0, '', ''),
  ('rows.PARQUET', ['a', 'b'], ['a', 'b'], 0, '', ''),
  ('large.parquet', _large([b'a', b'b']), ['a', 'b'], 0, '', ''),
  ('words.parquet', pa.array(['a', 'b', 'a']).dictionary_encode(),
   ['a', 'b', 'a'], 0, '', ''),
  ('latin-1.parquet', _strings([b'a', b'caf\xe9', b'b', b'\xff']), ['a', 'b'],
   2, ':row 2', 'not UTF-8 text (byte 3)'),
  ('large-latin-1.parquet', _large([b'\xe9', b'b']), ['b'], 1, ':row 1',
   'not UTF-8 text (byte 0)'),
  ('words-latin-1.parquet', _strings([b'\xe9', b'b']).dictionary_encode(),
   ['b'], 1, ':row 1', 'not UTF-8 text (byte 0)'),
  ('utf-16.parquet', _strings(['a'.encode('utf-16')]), [], 1, ':row 1',
   'but UTF-16'),
  ('nul.parquet', ['a', 'b\0'], ['a'], 1, ':row 2', 'NUL (character 1)'),
  ('null.parquet', [None, 'a'], ['a'], 1, ':row 1', 'holds NoneType, not text'),
  ('nulls.parquet', pa.array([None, None], pa.string()), [], 2, ':row 1',
   'holds NoneType'),
  ('int.parquet', [1, 2], [], 2, ':row 1', 'holds int, not text'),
  ('bytes.parquet', [b'a'], [], 1, ':row 1', 'holds bytes, not text'),
  ('struct.parquet', [{'x': 'a'}], [], 1, ':row 1', 'holds dict, not text'),
  ('years.parquet', pa.array([2**62], pa.timestamp('ms')), [], 1, ':row 1',
   "field 'text' cannot be read"),
  ('empty.parquet', pa.array([], pa.string()), [], 1, '', 'empty'),
  ('zero.parquet', b'', [], 1, '', 'damaged, cannot be read: Parquet file'),
  ('text.parquet', b'no parquet at all', [], 1, '', 'damaged, cannot be read'),
  ('cut.parquet', MANY[: len(MANY) // 2], [], 1, '', 'damaged, cannot be read'),
  ('page.parquet', MANY[:200] + bytes(200) + MANY[400:], [], 1, '',
   'damaged, cannot be read'),
]  # fmt: skip
parametrize = pytest.mark.parametrize(
  ('name', 'data', 'good', 'num_bad', 'where', 'problem'),
  CASES,
  ids=[case[0] for case in CASES],
)


@parametrize
def test_bad_documents_are_left_out_counted_and_the_first_is_named(
  name, data, good, num_bad, where, problem, tmp_path
):
  _write(tmp_path / name, data)
  (tmp_path / 'zz.txt').write_text('of another file')
  notes = []
  own = files.Files(str(tmp_path), bad_lines='skip')
  assert list(own.all_texts(note=notes.append)) == [*good, 'of another file']
  if not num_bad:
    assert notes == []
    return
  (note,) = notes
  several = 's' * (num_bad > 1)
  assert note.startswith(
    f'left out {num_bad} bad document{several}, the first is '
    f'{tmp_path}/{name}{where}: '
  )
  assert problem in note
  assert note.isprintable()


@pytest.mark.parametrize(
  'case',
  [case for case in CASES if case[0].endswith('.txt') and case[1].strip()],
  ids=lambda case: case[0],
)
def test_a_text_too_long_for_memory_is_judged_by_the_same_rule(
  case, tmp_path, monkeypatch
):
  name, data, good, num_bad, _, problem = case
  monkeypatch.setattr(long_text, 'LONG', 0)
  monkeypatch.setattr(long_text, '_CHUNK', 1)
  path = tmp_path / name
  path.write_bytes(data)
  (item,) = readers.read(path, 'text')
  assert bool(item.problem) == bool(num_bad)
  if num_bad:
    assert problem in item.problem
  else:
    assert [long_text.whole(item.text)] == good


@parametrize
def test_bad_documents_stop_with_a_line_that_names_the_first(
  name, data, good, num_bad, where, problem, tmp_path
):
  _write(tmp_path / name, data)
  (tmp_path / 'zz.txt').write_text('of another file')
  own = files.Files(str(tmp_path))
  if not num_bad:
    assert list(own.all_texts()) == [*good, 'of another file']
    return
  with pytest.raises(errors.InputError) as caught:
    list(own.all_texts())
  message = str(caught.value)
  several = 's' * (num_bad > 1)
  assert message.startswith(
    f'{num_bad} bad document{several}, the first is {tmp_path}/{name}{where}: '
  )
  assert problem in message
  assert message.endswith(
    '; mend it, or leave them out with data.bad_lines=skip'
  )
  assert message.isprintable()


def test_nothing_is_packed_behind_a_bad_document_that_stops(tmp_path):
  (tmp_path / 'a.jsonl').write_bytes(_lines(GOOD, b'1', GOOD, b'2'))
  (tmp_path / 'b.txt').write_text('good')
  texts = files.Files(str(tmp_path)).all_texts()
  assert next(texts) == 'a'
  with pytest.raises(errors.InputError, match='2 bad documents'):
    next(texts)


def test_one_bad_file_of_300_is_left_out(tmp_path):
  for i in range(300):
    (tmp_path / f'{i:03}.txt').write_text(f'text {i}')
  (tmp_path / '123.txt').write_bytes('füß'.encode('latin-1'))
  (tmp_path / '200.txt').write_text('')
  notes = []
  own = files.Files(str(tmp_path), bad_lines='skip')
  texts = list(own.all_texts(note=notes.append))
  assert texts == [f'text {i}' for i in range(300) if i not in {123, 200}]
  assert notes == [
    f'left out 2 bad documents, the first is {tmp_path}/123.txt: not UTF-8 '
    'text (byte 1)'
  ]


def test_where_no_document_is_good_that_is_an_error(tmp_path):
  for name in 'ab':
    (tmp_path / f'{name}.txt').write_bytes(b'\xff')
  with pytest.raises(errors.InputError) as caught:
    list(files.Files(str(tmp_path), bad_lines='skip').all_texts())
  assert str(caught.value) == (
    f'no document is good: 2 bad documents, the first is {tmp_path}/a.txt: not '
    'UTF-8 text (byte 0)'
  )


@pytest.mark.parametrize('bad_lines', ['stop', 'skip'])
def test_a_file_whose_rows_all_lack_the_field_is_an_error(bad_lines, tmp_path):
  (tmp_path / 'a.txt').write_text('good')
  path = tmp_path / 'b.jsonl'
  path.write_text('{"body": "a"}\n{"body": "b"}\n')
  own = files.Files(str(tmp_path), bad_lines=bad_lines)
  with pytest.raises(errors.InputError) as caught:
    list(own.all_texts())
  assert str(caught.value) == (
    f"{path}:1: no field 'text' (data.text_field); has 'body'; no row of the "
    'file has it: set data.text_field, or leave the file out of data.files'
  )
  # One row that has it, and it is the rows that are bad.
  path.write_text('{"body": "a"}\n{"text": "b"}\n')
  if bad_lines == 'skip':
    assert list(own.all_texts()) == ['good', 'b']


def test_a_missing_column_is_the_same(tmp_path):
  _write(tmp_path / 'a.parquet', pa.table({'id': [1], 'body': ['a']}))
  (tmp_path / 'b.txt').write_text('good')
  with pytest.raises(errors.InputError) as caught:
    list(files.Files(str(tmp_path), bad_lines='skip').all_texts())
  assert str(caught.value).startswith(
    f"{tmp_path}/a.parquet: no column 'text' (data.text_field); it has: id, "
    'body; no row of the file has it'
  )


def _rows(folder, report=lambda _: None, **kwargs):
  own = files.Files(str(folder / 'texts'), bad_lines='skip')
  request = cache_writer.Request(
    vocab.Bytes(), 8, folder / 'cache', report=report, **kwargs
  )
  return own.rows('train', request)


def test_what_is_left_out_before_the_last_document_taken_is_said(
  tmp_path, monkeypatch
):
  """Though reading ends there, as `data.max_documents` has it."""
  monkeypatch.setattr(encoding, 'JOB', 1)
  (tmp_path / 'texts').mkdir()
  lines = [b'1', *[GOOD] * 300, b'2']
  (tmp_path / 'texts' / 'a.jsonl').write_bytes(_lines(*lines))
  notes = []
  made = _rows(tmp_path, lambda p: notes.append(p.note), max_documents=2)
  assert made.meta.num_documents == 2
  (note,) = filter(None, notes)
  assert note.startswith('left out 1 bad document, the first is ')
  assert made.meta.notes == (note,)


def test_a_later_start_says_again_what_was_left_out(tmp_path):
  (tmp_path / 'texts').mkdir()
  (tmp_path / 'texts' / 'a.jsonl').write_bytes(_lines(GOOD, b'1'))
  said = []
  for _ in range(2):
    notes = []
    _rows(tmp_path, lambda p, notes=notes: notes.append(p.note))
    said.append([note for note in notes if note])
  assert said[0] == said[1]
  assert len(said[0]) == 1


def test_bad_documents_change_nothing_in_the_others(tmp_path):
  """Beside every bad case, the rows are those of the good documents alone."""
  texts = tmp_path / 'texts'
  texts.mkdir()
  wanted = []
  for name, data, good, _, _, _ in sorted(CASES, key=lambda case: case[0]):
    _write(texts / name, data)
    wanted += good
  made = _rows(tmp_path)
  for path in texts.iterdir():
    path.unlink()
  (texts / 'a.jsonl').write_text(
    ''.join(json.dumps({'text': text}) + '\n' for text in wanted)
  )
  assert _rows(tmp_path).contents == made.contents
  assert made.meta.num_documents == sum(map(bool, wanted))
