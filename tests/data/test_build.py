"""From the config to batches, without TensorFlow where no Task is read."""

import hashlib
import json
import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest

from moejax import config as configs
from moejax.core import config_tree, errors
from moejax.core import files as core_files
from moejax.data import build, config, mixtures, sums, tasks, vocab

ROOT = pathlib.Path(__file__).parents[2]


def _config(tmp_path, **kwargs):
  return config.DataConfig(cache_dir=str(tmp_path / 'cache'), **kwargs)


def test_own_files_from_the_config_alone(tmp_path):
  texts = [f'document {i} of many' for i in range(500)]
  lines = ''.join(json.dumps({'body': text}) + '\n' for text in texts)
  (tmp_path / 'a.jsonl').write_text(lines)
  data_config = _config(
    tmp_path,
    files=f'{tmp_path}/*.jsonl',
    text_field='body',
    vocab=vocab.Bytes(),
    sequence_length=32,
  )
  done = []
  data = build.build(
    data_config, 4, 0, lambda p: done.append(p.name) if p.done else None
  )
  assert done == ['files train', 'files validation']
  assert build.num_caches(data_config) == 2
  assert data.length == 32
  assert data.vocab == vocab.Bytes()
  batch = data.train.batch(0)
  assert batch.target_BL.shape == (4, 32)
  read = [data.domains['files'].train, data.validation['files']]
  found = []
  for reader in read:
    target_NL, segment_NL = reader.rows(np.arange(reader.num_rows))
    ids = target_NL[segment_NL > 0]
    parts = np.split(ids, np.flatnonzero(ids == 1) + 1)[:-1]
    found += [vocab.Bytes().decode(part) for part in parts]
  assert sorted(found) == sorted(texts)
  assert data.baselines('files').xz_bits_per_byte > 0


def test_validation_sets_are_opened_without_the_training_rows(tmp_path):
  (tmp_path / 'a.jsonl').write_text('{"text": "words of it"}\n' * 40)
  data_config = _config(tmp_path, files=str(tmp_path / 'a.jsonl'))
  held_out = build.validation(data_config)
  (cached,) = (
    path
    for path in (tmp_path / 'cache').iterdir()
    if not path.name.startswith('.')
  )
  assert 'validation' in cached.name
  data = build.build(data_config, 4, 0)
  assert held_out.vocab == data.vocab
  assert held_out.readers.keys() == data.validation.keys()
  for name, reader in held_out.readers.items():
    assert reader.contents == data.validation[name].contents
  assert build.validation(_config(tmp_path, mixture='synthetic')).vocab is None


def test_synthetic_needs_nothing(tmp_path):
  data = build.build(_config(tmp_path, mixture='synthetic'), 4, 0)
  assert data.vocab is None
  assert data.baselines('synthetic') is None
  assert data.train.batch(0).target_BL.shape == (4, 256)
  assert data.validation['synthetic'].num_rows == 64
  assert not (tmp_path / 'cache').exists()


def test_what_rows_are_known_by(tmp_path):
  (tmp_path / 'a.txt').write_text('some words and lines\n' * 99)

  def identity(**kwargs):
    own = {'files': str(tmp_path / 'a.txt'), 'vocab': vocab.Bytes()}
    return build.identity(
      build.build(_config(tmp_path, **{**own, **kwargs}), 4, 0)
    )

  before = identity()
  assert before == identity()
  assert list(before) == ['files/train', 'files/validation']
  folders = [p.name for p in (tmp_path / 'cache').iterdir() if p.is_dir()]
  assert sorted(before.values()) == sorted(folders)
  changed = [
    identity(sequence_length=9),
    identity(max_documents=1),
    identity(vocab=vocab.SentencePiece()),
  ]
  (tmp_path / 'a.txt').write_text('other words and lines\n' * 99)
  for other in (*changed, identity()):
    assert not set(other.values()) & set(before.values())
  assert identity(files='', mixture='synthetic') == {
    'synthetic/train': 'synthetic',
    'synthetic/validation': 'synthetic',
  }


def test_a_warm_start_reads_each_shard_once_and_no_text(tmp_path, monkeypatch):
  (tmp_path / 'a.txt').write_text('some words and lines\n' * 99)
  data_config = _config(
    tmp_path, files=str(tmp_path / 'a.txt'), vocab=vocab.Bytes()
  )
  # As if the text had been written a while ago.
  monkeypatch.setattr(sums, '_TICK_S', -60)
  read, real = [], core_files.sha256

  def record(path):
    read.append(path)
    return real(path)

  monkeypatch.setattr(core_files, 'sha256', record)
  build.build(data_config, 4, 0)
  shards = list((tmp_path / 'cache').glob('*/*.rows'))
  assert sorted(read) == sorted([tmp_path / 'a.txt', *shards])
  assert len(shards) == 2
  read.clear()
  monkeypatch.setattr(pathlib.Path, 'read_bytes', None)
  build.build(data_config, 4, 0)
  assert sorted(read) == sorted(shards)


def test_the_same_text_under_another_name_has_the_same_contents(tmp_path):
  text = 'some words and lines\n' * 99
  (tmp_path / 'a.txt').write_text(text)
  (tmp_path / 'there').mkdir()
  (tmp_path / 'there' / 'b.txt').write_text(text)

  def contents(**kwargs):
    made = _config(tmp_path, vocab=vocab.Bytes(), **kwargs)
    return build.contents(build.build(made, 4, 0))

  found = contents(files=str(tmp_path / 'a.txt'))
  assert list(found) == ['files/train', 'files/validation']
  assert contents(files=str(tmp_path / 'there')) == found
  # No line is bad, so that bad ones are left out changes nothing.
  assert contents(files=f'{tmp_path}/*.txt', bad_lines='skip') == found
  assert contents(files=f'{tmp_path}/*.txt', sequence_length=9) != found
  assert contents(mixture='synthetic') == {
    'synthetic/train': 'synthetic',
    'synthetic/validation': 'synthetic',
  }


def test_no_file_for_validation_is_one_line(tmp_path):
  (tmp_path / 'a.txt').write_text('a')
  data_config = _config(tmp_path, files=str(tmp_path / 'a.txt'))
  with pytest.raises(errors.InputError, match='nothing to validate on'):
    build.build(data_config, 4, 0)


@pytest.mark.parametrize(
  ('key', 'text', 'words'),
  [
    ('mixture', 'minpile', "did you mean 'minipile'"),
    ('vocab', 'byte', "did you mean 'bytes'"),
    ('bad_lines', 'ignore', 'known are: skip, stop'),
    ('sequence_length', 'long', 'wants an int'),
    ('cache_dir', 'gs://bucket', 'local or mounted disk'),
  ],
)
def test_bad_keys_are_one_line(key, text, words):
  with pytest.raises(errors.InputError) as caught:
    config_tree.override(config.DataConfig(), key, text)
  assert words in str(caught.value)
  assert len(str(caught.value).splitlines()) == 1


def test_validation_files_without_files_is_one_line(tmp_path):
  data_config = _config(tmp_path, validation_files='/x', mixture='synthetic')
  message = "data.validation_files='/x' goes with data.files"
  with pytest.raises(errors.InputError, match=message):
    data_config.check()
  with pytest.raises(errors.InputError, match=message):
    build.build(data_config, 4, 0)


def test_every_key_survives_the_config_dict():
  data_config = config.DataConfig(
    files='a', vocab=vocab.HfTokenizer('t.json', '</s>'), max_documents=3
  )
  tree = config_tree.to_config_dict(data_config)
  assert config_tree.from_config_dict(config.DataConfig, tree) == data_config


def test_the_cache_folder(monkeypatch, tmp_path):
  monkeypatch.setenv('MOEJAX_CACHE', '/from/environment')
  assert build.cache_dir(_config(tmp_path)) == tmp_path / 'cache'
  anywhere = config.DataConfig()
  assert str(build.cache_dir(anywhere)) == '/from/environment'
  monkeypatch.delenv('MOEJAX_CACHE')
  assert build.cache_dir(anywhere).parts[-2:] == ('.cache', 'moejax')


def test_mixtures_name_tasks():
  for mixture in mixtures.MIXTURES.values():
    assert len(mixture.tasks) == len(mixture.rates)
    for name in mixture.tasks:
      assert tasks.TASKS[name].name == name
      assert tasks.TASKS[name].splits == ('train', 'validation')


def test_the_shipped_text_is_whole():
  sums = (tasks.MINIPILE / 'SHA256SUMS').read_text().split()
  for digest, name in zip(sums[::2], sums[1::2], strict=True):
    data = (tasks.MINIPILE / name).read_bytes()
    assert hashlib.sha256(data).hexdigest() == digest
  assert len(sums) == 20
  assert (tasks.MINIPILE / 'LICENSE.wordnet.txt').exists()


OWN_FILES = """
import sys
from moejax.data import build, config, vocab
for kind in (vocab.SentencePiece(), vocab.Bytes()):
  data = build.build(
    config.DataConfig(files=sys.argv[1], cache_dir=sys.argv[2], vocab=kind,
                      sequence_length=16), 2, 0)
  next(data.train.iterate(0))
heavy = {'tensorflow', 'seqio', 'pyarrow', 'torch'} & set(sys.modules)
assert not heavy, heavy
"""


def test_own_files_are_read_without_tensorflow(tmp_path):
  (tmp_path / 'a.txt').write_text('some words\n' * 99)
  env = {**os.environ, 'PYTHONPATH': str(ROOT)}
  command = [sys.executable, '-c', OWN_FILES, str(tmp_path / 'a.txt')]
  subprocess.run([*command, str(tmp_path / 'c')], env=env, check=True)


RECORDS = """
import sys
if sys.argv[2] == 'without':
  for name in ('tensorflow', 'seqio', 'tensorflow_datasets', 'tensorflow_text'):
    sys.modules[name] = None  # importing it fails
from moejax.data import build, config
data = build.build(
  config.DataConfig(mixture='minipile', max_documents=2, cache_dir=sys.argv[1],
                    sequence_length=32), 2, 0)
batch = next(data.train.iterate(0))
print(sorted(data.validation), int(batch.token_BL.sum()))
"""


@pytest.mark.soak
def test_packed_records_travel_to_a_machine_without_the_text_pipeline(tmp_path):
  """As configs/sweeps/headline_h200.py says: pack here, train there."""
  env = {**os.environ, 'PYTHONPATH': str(ROOT)}
  here, there = tmp_path / 'here', tmp_path / 'there'
  read = lambda folder, how: (
    subprocess.run(
      [sys.executable, '-c', RECORDS, str(folder), how],
      env=env,
      check=True,
      capture_output=True,
      text=True,
    ).stdout
  )
  want = read(here, 'with')
  here.rename(there)
  assert read(there, 'without') == want


def test_the_text_of_the_2b_configs_is_long_enough():
  """Else a run would see each document several times, and say nothing."""
  run = configs.load(str(ROOT / 'configs' / 'ds_2b.py'))
  batch = run.train.batch_size * run.data.sequence_length
  sample = tasks.TASKS[run.data.mixture].config  # 'sample-100BT'
  held = int(sample.removeprefix('sample-').removesuffix('BT')) * 10**9
  assert run.train.steps * batch < 1.1 * held
