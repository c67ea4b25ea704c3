"""Text and folders that cannot be used: one line, code 2, nothing begun."""

import gzip
import json
import os

import pytest
from helpers import own_text

from moejax.core import exits
from moejax.moe import self_check
from moejax.train import loop

GOOD = json.dumps({'text': 'A good line, and a second sentence.'}) + '\n'


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
  monkeypatch.setenv('MOEJAX_CACHE', str(tmp_path / 'cache'))


def _error(text, workdir, *flags):
  """The one line that a run on this text fails with."""
  ended = own_text.call(*own_text.flags(text, workdir), *flags)
  assert ended.code == exits.BAD_INPUT, ended
  (line,) = ended.err
  assert line.startswith('error: ')
  # Nothing was begun, so nothing is in the way of the next try.
  assert not (workdir / 'config.json').exists()
  return line


def test_a_bad_line_is_named_with_the_fix(tmp_path):
  text = tmp_path / 'mine.jsonl'
  bad = '{"text": "cut o\n'
  text.write_text(GOOD + GOOD + bad + GOOD + bad)
  line = _error(text, tmp_path / 'run')
  assert f'2 bad documents, the first is {text}:3: not JSON' in line
  assert 'data.bad_lines=skip' in line


def test_skipped_lines_are_counted_and_training_begins(tmp_path, monkeypatch):
  text, workdir = tmp_path / 'mine.jsonl', tmp_path / 'run'
  own_text.write_stories(text)
  whole = text.read_text()
  text.write_text(f'{{"text"\n{whole}[]\n')
  begun = []

  def run(job, state):
    with job.batches(0) as batches:
      begun.append(next(batches))
    raise KeyboardInterrupt

  # It takes seconds to compile, and is nothing to the text.
  monkeypatch.setattr(self_check, 'run', lambda *_: None)
  monkeypatch.setattr(loop, 'run', run)
  flags = own_text.flags(text, workdir)
  ended = own_text.call(*flags, '--config.data.bad_lines=skip')
  assert ended.code == exits.INTERRUPTED
  note = f'left out 2 bad documents, the first is {text}:1: not JSON'
  assert sum(note in line for line in ended.out) == 1
  ((batch,),) = (begun,)
  assert batch.token_BL.shape == (8, 32)
  (meta,) = (tmp_path / 'cache').glob('files-train-*/meta.json')
  assert json.loads(meta.read_text())['num_documents'] == 60


def test_a_file_that_cannot_be_read(tmp_path):
  text = tmp_path / 'mine.jsonl.gz'
  text.write_bytes(gzip.compress(GOOD.encode())[:-9])
  assert f'{text}: damaged, cannot be read' in _error(text, tmp_path / 'run')
  # A link to itself: opening it fails for every user, whatever he may read.
  folder = tmp_path / 'texts'
  folder.mkdir()
  os.symlink('loop.jsonl', folder / 'loop.jsonl')
  line = _error(folder / 'loop.jsonl', tmp_path / 'run')
  assert f'{folder}/loop.jsonl' in line


def test_text_that_leaves_nothing_to_validate_on(tmp_path):
  text = tmp_path / 'mine.jsonl'
  text.write_text('{"text": "x"}\n')
  assert 'data.validation_fraction' in _error(text, tmp_path / 'run')


@pytest.mark.parametrize(
  ('name', 'reason'),
  [
    ('file/run', 'is a file, or lies below one'),
    # That no folder can be made for it holds for every user, root included.
    ('x' * 300 + '/run', 'is not writable (File name too long)'),
  ],
)
def test_a_workdir_that_cannot_be_made(name, reason, tmp_path):
  (tmp_path / 'file').write_text('mine')
  text = own_text.write_stories(tmp_path / 'mine.jsonl')
  workdir = tmp_path / name
  ended = own_text.call(*own_text.flags(text, workdir))
  assert ended.code == exits.BAD_INPUT
  (line,) = ended.err
  assert line.startswith(f"error: workdir '{workdir}' {reason}")
  assert (tmp_path / 'file').read_text() == 'mine'
  assert not (tmp_path / 'cache').exists()


def test_a_workdir_without_permission(tmp_path):
  text = own_text.write_stories(tmp_path / 'mine.jsonl')
  closed = tmp_path / 'closed'
  closed.mkdir(mode=0o500)
  try:
    (closed / 'probe').mkdir()
    pytest.skip('this user may write everywhere: the cases above have to do')
  except PermissionError:
    pass
  ended = own_text.call(*own_text.flags(text, closed / 'run'))
  assert ended.code == exits.BAD_INPUT
  (line,) = ended.err
  assert 'is not writable (Permission denied)' in line


def test_a_folder_of_packed_text_that_cannot_be_made(tmp_path, monkeypatch):
  (tmp_path / 'file').write_text('mine')
  monkeypatch.setenv('MOEJAX_CACHE', str(tmp_path / 'file' / 'cache'))
  text = own_text.write_stories(tmp_path / 'mine.jsonl')
  line = _error(text, tmp_path / 'run')
  assert str(tmp_path / 'file') in line
