"""Files of JSON that are one list, read piece by piece."""

import gzip
import json
import pathlib

import pyarrow
import pytest

from moejax.core import errors
from moejax.data import json_list, readers
from moejax.data.chat import source

NEITHER = json_list.NEITHER


def make(where, row):
  return readers.Item(where, row, '')


def read(path):
  """(place behind the file's name, object or problem) of each entry."""
  return [
    (item.where.removeprefix(str(path)), item.problem or item.text)
    for item in readers.read(path, make, source.KINDS)
  ]


def entries(count):
  texts = ('a, ] } "', 'é\u2028', '\\', '[{', '🦊' * 9)
  return [
    {'id': n, 'value': texts[n % 5], 'more': [n, {'x': None}]}
    for n in range(count)
  ]


@pytest.fixture(params=[1, 7, json_list.PIECE])
def piece(request, monkeypatch):
  """Bytes that are read at once, from one to the whole file."""
  monkeypatch.setattr(json_list, 'PIECE', request.param)


@pytest.mark.parametrize('indent', [None, 2])
@pytest.mark.parametrize('ascii_only', [True, False])
def test_a_list_is_what_json_reads(tmp_path, piece, indent, ascii_only):
  path = tmp_path / 'a.json'
  text = json.dumps(entries(12), indent=indent, ensure_ascii=ascii_only)
  path.write_text(f'\ufeff\n {text} \n')
  want = [(f':entry {n}', row) for n, row in enumerate(entries(12), 1)]
  assert read(path) == want


@pytest.mark.parametrize(
  ('text', 'want'),
  [
    ('[]', [('', 'empty')]),
    (' \n', [('', 'empty')]),
    (
      '[{}, 12, {}]',
      [(':entry 1', {}), (':entry 2', 'not a JSON object'), (':entry 3', {})],
    ),
    (
      '[{} {}]',
      [
        (':entry 1', {}),
        (':entry 1', 'behind it is neither a comma nor the end of'),
      ],
    ),
    ('[{}', [(':entry 1', {}), (':entry 1', 'behind it is neither')]),
    ('[{},]', [(':entry 1', {}), (':entry 2', 'not JSON (Expecting value)')]),
    ('[{"a": tru}]' + ' ' * 99, [(':entry 1', 'not JSON (Expecting value)')]),
    ('[{"a": "b', [(':entry 1', 'not JSON (Unterminated string')]),
    (
      '[{}] x',
      [(':entry 1', {}), ('', 'has more text behind the end of its list')],
    ),
    ('[' * 9**5, [(':entry 1', 'maximum recursion depth')]),
    ('hello', [('', NEITHER)]),
    ('"text"', [('', NEITHER)]),
    ('{\n "a": 1}', [('', NEITHER)]),
    ('{"a": 1}\n{"b": 2}', [(':1', {'a': 1}), (':2', {'b': 2})]),
    ('{"a": 1}\n{"b', [(':1', {'a': 1}), (':2', 'not JSON (')]),
    ('[{"a": "\xe9"}]', [('', 'not UTF-8 text (byte 8)')]),
  ],
)
def test_what_is_no_list_has_its_place(tmp_path, piece, text, want):
  path = tmp_path / 'a.json'
  path.write_bytes(text.encode('latin1'))
  found = read(path)
  # A problem need not be given to its end.
  found = [
    (at, value[: len(expected)] if isinstance(value, str) else value)
    for (at, value), (_, expected) in zip(found, want, strict=True)
  ]
  assert found == want


def test_utf_16_is_named(tmp_path):
  path = tmp_path / 'a.json'
  path.write_text('[{}]', encoding='utf-16')
  ((place, problem),) = read(path)
  assert not place
  assert problem.startswith('not UTF-8 text but UTF-16')


def test_a_mistake_ends_the_reading_at_once(tmp_path, monkeypatch):
  monkeypatch.setattr(json_list, 'PIECE', 64)
  path = tmp_path / 'a.json'
  path.write_text('[{"a": 1}, {"b" 2}, ' + '{"c": 3}, ' * 9999 + '{}]')
  pieces = []

  class Watched(json_list._Text):
    def more(self):
      pieces.append(len(self.buffer))
      return super().more()

  monkeypatch.setattr(json_list, '_Text', Watched)
  assert read(path)[-1] == (':entry 2', "not JSON (Expecting ':' delimiter)")
  assert len(pieces) < 3


def test_memory_holds_one_entry(tmp_path, monkeypatch):
  monkeypatch.setattr(json_list, 'PIECE', 64)
  monkeypatch.setattr(json_list, 'LONGEST', 1000)
  path = tmp_path / 'a.json'
  longest = []

  class Watched(json_list._Text):
    def more(self):
      found = super().more()
      longest.append(len(self.buffer))
      return found

  monkeypatch.setattr(json_list, '_Text', Watched)
  path.write_text(json.dumps([{'a': 'x' * 200}] * 500))
  assert len(read(path)) == 500
  assert max(longest) < 1000
  path.write_text(json.dumps([{'a': 1}, {'a': 'x' * 10**5}, {'a': 2}]))
  assert read(path)[1:] == [(':entry 2', 'has over 1,000 characters')]
  assert max(longest) < 3000


def test_compressed_lists_and_lists_of_conversations(tmp_path):
  row = {
    'id': 'x',
    'conversations': [
      {'from': 'human', 'value': 'Is 2 even?'},
      {'from': 'gpt', 'value': 'Yes.'},
    ],
  }
  rows = [row, {**row, 'image': 'a.jpg'}, row]
  text = json.dumps(rows).encode()
  plain, zipped, zst = (
    tmp_path / f'talks.json{end}' for end in ('', '.gz', '.zst')
  )
  plain.write_bytes(text)
  zipped.write_bytes(gzip.compress(text))
  with pyarrow.CompressedOutputStream(str(zst), 'zstd') as file:
    file.write(text)
  (tmp_path / 'README.md').write_text('about the files')
  notes = []
  found = source.Conversations(str(tmp_path), bad_lines='skip')
  listed = [*found.all_texts('train', notes.append)]
  assert len(listed) == 6
  assert {c.sha256() for c in listed} == {listed[0].sha256()}
  assert [pathlib.Path(c.where).name for c in listed[:2]] == [
    'talks.json:entry 1',
    'talks.json:entry 3',
  ]
  assert notes[0].startswith('passed over 1 file of unknown kinds')
  assert notes[1].startswith('left out 3 bad documents, the first is')
  assert 'talks.json:entry 2: has an image' in notes[1]
  plain.write_text('name,age\n')
  with pytest.raises(errors.InputError, match='neither a JSON list') as e:
    [*source.Conversations(str(plain)).all_texts()]
  assert '\n' not in str(e.value)
