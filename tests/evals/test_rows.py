"""Rows of benchmarks: every kind of source, and every problem with a row."""

import csv
import json
import sys
import types

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from moejax.core import errors
from moejax.evals import rows
from moejax.evals.benchmark import Dataset

COLUMNS = {'question': str, 'options': list, 'answer': int}
ROWS = [
  {'question': 'One?', 'options': ['a', 'b'], 'answer': 0},
  {'question': 'Zwei, „drei“?', 'options': ['ä', 'ö'], 'answer': 1},
]


def _dataset(config='', **more):
  return Dataset('people/quiz', config, 'test', COLUMNS, **more)


def _write_jsonl(path):
  path.write_text('\n'.join(json.dumps(r) for r in ROWS) + '\n')


def _write_json(path):
  path.write_text(json.dumps(ROWS, indent=2))


def _write_csv(path):
  with path.open('w', newline='') as file:
    writer = csv.DictWriter(file, COLUMNS)
    writer.writeheader()
    for row in ROWS:
      writer.writerow({**row, 'options': json.dumps(row['options'])})


def _write_parquet(path, part=ROWS):
  pq.write_table(pa.Table.from_pylist(part), path)


WRITERS = {
  '.jsonl': _write_jsonl,
  '.json': _write_json,
  '.csv': _write_csv,
  '.parquet': _write_parquet,
}


def _load(data, dataset=None):
  return rows.load('quiz', dataset or _dataset(), 'test', str(data))


@pytest.mark.parametrize('ending', rows.READERS)
def test_a_kind_of_file_gives_the_rows_with_their_types(ending, tmp_path):
  (tmp_path / 'quiz').mkdir()
  WRITERS[ending](tmp_path / 'quiz' / f'test{ending}')
  loaded = _load(tmp_path)
  assert [entry.row for entry in loaded] == ROWS
  assert all(f'quiz/test{ending}' in entry.where for entry in loaded)


def test_json_may_have_a_row_a_line(tmp_path):
  (tmp_path / 'quiz').mkdir()
  _write_jsonl(tmp_path / 'quiz' / 'test.json')
  assert [entry.row for entry in _load(tmp_path)] == ROWS


def test_a_folder_as_the_hub_has_it_is_read(tmp_path):
  place = tmp_path / 'quiz' / 'easy'
  place.mkdir(parents=True)
  for i, row in enumerate(ROWS):
    _write_parquet(place / f'test-0000{i}-of-00002.parquet', [row])
  other = Dataset('people/quiz', 'easy', 'test', COLUMNS)
  loaded = rows.load('quiz_easy', other, 'test', str(tmp_path))
  assert [entry.row for entry in loaded] == ROWS


def test_rows_of_several_configurations_name_theirs(tmp_path):
  for config, row in zip(('b', 'a'), ROWS, strict=True):
    (tmp_path / 'quiz' / config).mkdir(parents=True)
    _write_parquet(tmp_path / 'quiz' / config / 'test.parquet', [row])
  both = [{'config': 'b', **ROWS[0]}, {'config': 'a', **ROWS[1]}]
  loaded = _load(tmp_path, _dataset(configs=('b', 'a')))
  assert [e.row for e in loaded] == both
  assert [e.row for e in _load(tmp_path, _dataset('b'))] == ROWS[:1]
  with pytest.raises(errors.InputError, match='of 1 of its 2 .* is c: none'):
    _load(tmp_path, _dataset(configs=('b', 'c')))


def _row(**changes):
  row = {**ROWS[0], **changes}
  return json.dumps({k: v for k, v in row.items() if v is not None})


@pytest.mark.parametrize(
  ('text', 'words'),
  [
    (
      f'{_row()}\n{_row(options=None)}',
      "test.jsonl:2: the row has no column 'options', only 'question', "
      "'answer': people/quiz publishes it",
    ),
    (
      f'\n{_row(answer="1")}',
      "test.jsonl:2: the column 'answer' is of type str, not int",
    ),
    ('{"question": "cut', 'test.jsonl:1: not JSON'),
    ('[1]', 'test.jsonl:1: not a JSON object'),
    (
      f'{_row()}\n{_row(question=chr(0xD83D))}',
      'test.jsonl:2: a text has half',
    ),
    ('', "split 'test' of"),
  ],
)
def test_a_bad_row_is_named(text, words, tmp_path):
  (tmp_path / 'quiz').mkdir()
  (tmp_path / 'quiz' / 'test.jsonl').write_text(text)
  with pytest.raises(errors.InputError) as error:
    _load(tmp_path)
  assert words in str(error.value)
  assert '\n' not in str(error.value)


def test_files_that_are_not_there_are_named(tmp_path):
  with pytest.raises(errors.InputError, match='there is no such folder'):
    _load(tmp_path / 'nowhere')
  with pytest.raises(errors.InputError, match="has no folder 'quiz'"):
    _load(tmp_path)
  (tmp_path / 'quiz').mkdir()
  with pytest.raises(errors.InputError, match='no split .test.: none'):
    _load(tmp_path)
  (tmp_path / 'quiz' / 'test.parquet').write_bytes(b'PAR1')
  with pytest.raises(errors.InputError, match='not a whole parquet file'):
    _load(tmp_path)
  (tmp_path / 'quiz' / 'test.parquet').unlink()
  (tmp_path / 'quiz' / 'test.csv').write_text('question,options\nx\n')
  with pytest.raises(errors.InputError, match='csv:2: the row has not as many'):
    _load(tmp_path)
  (tmp_path / 'quiz' / 'test.csv').write_bytes(b'question\n\xff\n')
  with pytest.raises(errors.InputError, match='is not UTF-8 at byte 9'):
    _load(tmp_path)


def test_a_file_that_cannot_be_read_is_named(tmp_path):
  place = tmp_path / 'quiz'
  (place / 'test.jsonl').mkdir(parents=True)
  with pytest.raises(errors.InputError, match='jsonl cannot be read .Is a dir'):
    _load(tmp_path)
  (place / 'test.jsonl').rmdir()
  rows_and_open_quote = f'{",".join(COLUMNS)}\nx,[],0\n"{"y" * 140_000}\n'
  (place / 'test.csv').write_text(rows_and_open_quote)
  with pytest.raises(errors.InputError, match='csv:3: not CSV .*close its quo'):
    _load(tmp_path)


def test_a_csv_file_may_have_old_line_ends(tmp_path):
  (tmp_path / 'quiz').mkdir()
  path = tmp_path / 'quiz' / 'test.csv'
  _write_csv(path)
  path.write_bytes(path.read_bytes().replace(b'\r\n', b'\r'))
  assert [entry.row for entry in _load(tmp_path)] == ROWS


def test_a_shard_that_is_missing_is_named(tmp_path):
  (tmp_path / 'quiz').mkdir()
  for number in (0, 2):
    _write_parquet(tmp_path / 'quiz' / f'test-0000{number}-of-00003-ab.parquet')
  with pytest.raises(
    errors.InputError, match='one of 3 .* number 00001 is mis'
  ):
    _load(tmp_path)


def _hub(monkeypatch, load):
  module = types.SimpleNamespace(load_dataset=load)
  monkeypatch.setitem(sys.modules, 'datasets', module)


def test_the_hub_is_asked_for_each_configuration(monkeypatch):
  asked = []

  def load(hub, config, *, split):
    asked.append((hub, config, split))
    return iter(ROWS)

  _hub(monkeypatch, load)
  assert [e.row for e in _load('hub')] == ROWS
  loaded = _load('hub', _dataset(configs=('b', 'a')))
  assert [e.row['config'] for e in loaded] == ['b', 'b', 'a', 'a']
  assert loaded[0].where == 'people/quiz b test row 1'
  assert asked == [
    ('people/quiz', None, 'test'),
    ('people/quiz', 'b', 'test'),
    ('people/quiz', 'a', 'test'),
  ]


def test_without_a_network_the_hub_is_one_line(monkeypatch):
  def load(*_, **__):
    raise ConnectionError('no route\nand more')

  _hub(monkeypatch, load)
  with pytest.raises(errors.InputError) as error:
    _load('hub')
  assert 'people/quiz cannot be read from the Hugging Face hub (no route)' in (
    str(error.value)
  )
  monkeypatch.setitem(sys.modules, 'datasets', None)
  with pytest.raises(errors.InputError, match='pip install datasets'):
    _load('hub')


def test_rows_of_tfds_have_the_types_of_the_others(monkeypatch):
  import numpy as np

  raw = [
    {
      'question': r['question'].encode(),
      'options': np.array([o.encode() for o in r['options']], object),
      'answer': np.int64(r['answer']),
    }
    for r in ROWS
  ]
  module = types.SimpleNamespace(
    load=lambda name, split: raw, as_numpy=lambda x: x
  )
  monkeypatch.setitem(sys.modules, 'tensorflow_datasets', module)
  assert [e.row for e in _load('tfds', _dataset(tfds='quiz'))] == ROWS
  with pytest.raises(errors.InputError, match='not in TensorFlow Datasets'):
    _load('tfds')


def test_a_dataset_may_make_its_rows():
  made = _dataset(rows=lambda split: [{'split': split}] * 3)
  assert [e.row for e in _load('hub', made)] == [{'split': 'test'}] * 3


def test_rows_of_tfds_need_an_extra(monkeypatch):
  monkeypatch.setitem(sys.modules, 'tensorflow_datasets', None)
  with pytest.raises(errors.InputError, match=r"pip install 'moejax\[seqio\]'"):
    _load('tfds', _dataset(tfds='quiz'))
