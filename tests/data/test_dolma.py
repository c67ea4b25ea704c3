"""Dolma: rows in its own schema, from the folder that a variable names."""

import gzip
import json

import pyarrow
import pytest

from moejax.core import config_tree, errors
from moejax.data import build, config, vocab


def _row(number):
  return {
    'id': f'a{number}',
    'text': f'Document {number}.\n' * 40,
    'source': ['common-crawl', 'c4', 'stack-v2'][number % 3],
    'added': '2023-04-11T09:57:03.044571+00:00',
    'created': '2020-01-17T12:48:45Z',
    'version': 'v0',
    'metadata': {'url': f'http://a.example/{number}', 'length': 11},
  }


def _lines(numbers):
  return ''.join(json.dumps(_row(i)) + '\n' for i in numbers).encode()


@pytest.fixture
def folder(tmp_path, monkeypatch):
  """Three files with the endings that Dolma's releases have."""
  place = tmp_path / 'dolma'
  place.mkdir()
  (place / 'c4-0000.json.gz').write_bytes(gzip.compress(_lines(range(4))))
  with pyarrow.output_stream(
    str(place / 'cc-0001.jsonl.zst'), compression='zstd'
  ) as out:
    out.write(_lines(range(4, 9)))
  (place / 'x.jsonl').write_bytes(_lines([9]) + b'{"id": "b", "text": null}\n')
  monkeypatch.setenv('DOLMA_DIR', str(place))
  return place


def _data(tmp_path, *flags, **keys):
  notes = []
  own = config.DataConfig(
    vocab=vocab.Bytes(),
    sequence_length=64,
    cache_dir=str(tmp_path / 'cache'),
    **keys,
  )
  own = config_tree.override_all(own, flags)
  return build.build(own, 4, 0, notes.append), [x.note for x in notes if x.note]


@pytest.mark.parametrize(
  ('flags', 'keys', 'name'),
  [
    ([], {'mixture': 'dolma'}, 'dolma'),
    ([('sources.mine.task', 'dolma')], {}, 'mine'),
  ],
)
def test_its_rows_are_read_and_bad_ones_counted(
  flags, keys, name, folder, tmp_path
):
  data, notes = _data(tmp_path, *flags, **keys)
  assert [*data.domains] == [name]
  domain = data.domains[name]
  assert domain.train.meta.num_documents == 10
  # Of few documents the end of each is held out.
  assert domain.validation.meta.num_documents == 10
  texts = ''.join(domain.task.texts('train'))
  texts += ''.join(domain.task.texts('validation'))
  whole = ''.join(_row(i)['text'] for i in range(10))
  assert sorted(texts) == sorted(whole)
  assert 'left out 1 bad document, the first is' in ' '.join(notes)
  assert domain.train.path.name.startswith('dolma-train-')


def test_the_folder_is_read_anew_by_another_run(folder, tmp_path, monkeypatch):
  first, _ = _data(tmp_path, mixture='dolma')
  (folder / 'y.jsonl').write_bytes(_lines([11]))
  second, _ = _data(tmp_path, mixture='dolma')
  rows = [x.domains['dolma'].train.meta.num_documents for x in (first, second)]
  assert rows == [10, 11]


@pytest.mark.parametrize(
  ('value', 'words'),
  [
    (None, 'the folder that $DOLMA_DIR names, which is not set'),
    ('/no/such', "$DOLMA_DIR='/no/such': no file there matches"),
  ],
)
def test_without_files_it_is_one_line(value, words, tmp_path, monkeypatch):
  monkeypatch.delenv('DOLMA_DIR', raising=False)
  if value:
    monkeypatch.setenv('DOLMA_DIR', value)
  with pytest.raises(errors.InputError) as caught:
    _data(tmp_path, mixture='dolma')
  (line,) = str(caught.value).splitlines()
  assert words in line
