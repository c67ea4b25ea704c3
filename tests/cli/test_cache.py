"""The command that packs text, on a config's own files."""

import gc
import json
import os
import pathlib
import re

import pytest

from moejax.cli import cache
from moejax.core import errors
from moejax.data import cache as data_cache
from moejax.data import estimate
from moejax.data import files as text_files

CONFIG = pathlib.Path(__file__).parents[2] / 'configs' / 'tiny.py'
MADE_UP = '--config.data.mixture=synthetic'


@pytest.fixture
def flags(tmp_path):
  texts = [f'document {i} of many' for i in range(500)]
  lines = [json.dumps({'text': text}) for text in [*texts, '']]
  (tmp_path / 'a.jsonl').write_text('\n'.join([*lines, '{broken']))
  return [
    f'--config={CONFIG}',
    f'--config.data.files={tmp_path}/a.jsonl',
    f'--config.data.cache_dir={tmp_path}/cache',
    '--config.data.bad_lines=skip',
  ]


def test_it_packs_then_finds_and_verifies(flags, tmp_path, capsys):
  for _ in range(2):
    cache.main(flags)
    out = capsys.readouterr().out
    assert 'checksums verified' in out
    assert 'validation' in out
    assert '500' not in out  # documents: some are for validation
  folders = [p for p in (tmp_path / 'cache').iterdir() if p.is_dir()]
  assert len(folders) == 2


def test_it_tells_what_was_left_out(flags, capsys):
  cache.main(flags)
  out = capsys.readouterr().out
  assert 'left out 1 bad document, the first is' in out
  assert 'a.jsonl:502' in out


def test_a_changed_byte_is_an_error(flags, tmp_path):
  cache.main(flags)
  shard = next((tmp_path / 'cache').glob('files-train-*/00000.rows'))
  data = bytearray(shard.read_bytes())
  data[100] ^= 1
  shard.write_bytes(data)
  with pytest.raises(errors.InputError, match='another checksum'):
    cache.main(flags)


def test_rows_are_shown_from_text_and_from_caches(flags, capsys):
  cache.main([*flags, '--show=2'])
  out = capsys.readouterr().out
  assert 'the beginning of the text, which is not packed yet:' in out
  assert 'document 0 of many<eos>' in out
  assert 'row 2, files: 256 tokens' in out
  cache.main([*flags, '--processes=2'])
  assert 'about' in capsys.readouterr().out
  cache.main([*flags, '--show=2'])
  out = capsys.readouterr().out
  assert 'the first rows of training, from the cache:' in out
  assert 'row 2, files: 256 tokens' in out
  cache.main([f'--config={CONFIG}', '--show=1', MADE_UP])
  assert 'no text to show' in capsys.readouterr().out


def test_made_up_rows_need_no_packing(tmp_path, capsys):
  cache.main([f'--config={CONFIG}', MADE_UP])
  assert 'nothing to pack' in capsys.readouterr().out


def test_the_command_reads_what_training_does_not(flags, tmp_path, monkeypatch):
  monkeypatch.setattr(data_cache, '_VERIFIED_WHEN_OPENED', 0)
  cache.main(flags)
  shard = next((tmp_path / 'cache').glob('files-train-*/00000.rows'))
  data = bytearray(shard.read_bytes())
  data[-1] ^= 1
  shard.write_bytes(data)
  data_cache.RowCache(shard.parent)  # as training opens a large one
  with pytest.raises(errors.InputError, match='another checksum'):
    cache.main(flags)


def test_old_caches_are_listed_and_removed_only_on_request(
  flags, tmp_path, capsys
):
  cache.main(flags)
  folder = tmp_path / 'cache'
  old = next(folder.glob('files-train-*'))
  os.utime(old / 'meta.json', (0, 0))
  where = f'--config.data.cache_dir={folder}'
  capsys.readouterr()
  gc.collect()  # no cache is open any more
  cache.main(['--prune', where])
  out = capsys.readouterr().out
  assert f'1 of 2 caches in {folder} would be removed' in out
  assert 'run again with --yes' in out
  assert 'used recently' in out
  assert old.exists()
  cache.main(['--prune', '--yes', f'--config={CONFIG}', where])
  assert f'1 of 2 caches in {folder} removed' in capsys.readouterr().out
  assert not old.exists()
  cache.main(['--prune', '--unused_days=0', where])
  assert '1 of 1 caches' in capsys.readouterr().out


@pytest.mark.parametrize(
  ('flags', 'words'),
  [
    ([], '--config is needed'),
    (['--prune', '--unused_days=-1'], 'must be 0 or more'),
    (['--prune', '--unused_days=nan'], 'must be 0 or more'),
    (['--prune', '--config.data.cache_dirs=x'], "mean 'data.cache_dir'"),
    (['--prune', '--config.cache_dir=x'], "unknown config key 'cache_dir'"),
    (
      ['--prune', '--config.data.cache_dir=a', '--config.data.cache_dir=b'],
      'contradict each other',
    ),
    (['--prune', '--config.data.cache_dir=/no/such'], 'cannot be read'),
    (['--prune', '--config.seed=1'], '--config.seed=1 does nothing with'),
  ],
)
def test_flags_that_do_not_fit_are_one_line(flags, words):
  with pytest.raises(errors.InputError) as caught:
    cache.main(flags)
  assert words in str(caught.value)


@pytest.mark.parametrize(
  ('flag', 'words'),
  [
    ('--config.data.max_documents=400', ''),
    (
      '--config.data.steps.length.min_characters=5',
      ', if data.steps keep all of it; their own time is not counted',
    ),
    ('', ''),
  ],
)
def test_the_work_ahead_is_told(flag, words, flags, capsys):
  cache.main([*flags, flag] if flag else flags)
  lines = capsys.readouterr().out.splitlines()
  (line,) = [x for x in lines if x.startswith('files train: about ')]
  assert ' tokens: ' in line
  assert re.search(r'with \d+ process(es)?' + words + '$', line)


def test_why_there_is_no_estimate_is_told(flags, capsys, monkeypatch):
  unknown = lambda self, split: estimate.Sample(['text'], 4.0, None)
  monkeypatch.setattr(text_files.Files, 'sample', unknown)
  cache.main(flags)
  lines = capsys.readouterr().out.splitlines()
  assert [line for line in lines if 'no estimate' in line] == [
    f'files {split}: no estimate of the work: the source does not say how many '
    'documents it has'
    for split in ('train', 'validation')
  ]


@pytest.mark.parametrize(
  ('words', 'message'),
  [
    (['--output=gs://b/c'], 'needs --beam'),
    (['--output=/b/c', '--beam'], 'must be a folder of an object store'),
  ],
)
def test_an_output_that_would_be_ignored_is_one_line(words, message, flags):
  with pytest.raises(errors.InputError, match=message):
    cache.main([*flags, *words])
