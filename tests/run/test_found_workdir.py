"""Workdirs without a config.json, and with files that no run made."""

import json

from etils import epath

from moejax.config import Run
from moejax.core import config_tree, files
from moejax.run import data_progress, found_workdir
from moejax.train.checkpoint_folder import CheckpointFolder


def said(folder):
  lines = []
  found_workdir.write_missing_config(epath.Path(folder), lines.append)
  found_workdir.say_other_files(epath.Path(folder), lines.append)
  return lines


def begin(folder, step, extra):
  place = CheckpointFolder(epath.Path(folder) / 'checkpoints', print)
  part = place.path(step)
  part.mkdir(parents=True)
  files.atomic_write_json(part / 'meta.json', {'step': step, 'extra': extra})


def test_a_config_that_was_deleted_is_written_from_the_newest_checkpoint(
  tmp_path, monkeypatch
):
  whole = CheckpointFolder.damage
  monkeypatch.setattr(
    CheckpointFolder,
    'damage',
    lambda self, step: 'cut short' if step == 30 else None,
  )
  for step in (10, 20, 30):
    config = config_tree.to_dict(Run(seed=step))
    begin(tmp_path, step, {'config': config})
  (line,) = said(tmp_path)
  assert 'config.json was missing' in line
  assert 'checkpoint of step 20' in line
  written = json.loads((tmp_path / 'config.json').read_text())
  assert written == config_tree.to_dict(Run(seed=20))
  assert said(tmp_path) == []
  # A checkpoint that does not verify is not read.
  monkeypatch.setattr(CheckpointFolder, 'damage', whole)
  (tmp_path / 'config.json').unlink()
  said(tmp_path)
  assert not (tmp_path / 'config.json').exists()


def test_imported_weights_have_no_config_to_write(tmp_path, monkeypatch):
  monkeypatch.setattr(CheckpointFolder, 'damage', lambda self, step: None)
  begin(tmp_path, 0, {'imported': 'elsewhere'})
  assert said(tmp_path) == []
  assert not (tmp_path / 'config.json').exists()


def test_files_that_no_run_made_are_named(tmp_path):
  assert said(tmp_path / 'new') == []
  assert said(tmp_path) == []
  # What the command writes its lines to, and what systems leave.
  for name in ('log.txt', 'run.OUT', 'start.sh', 'notes.md', '.lock'):
    (tmp_path / name).write_text('x')
  assert said(tmp_path) == []
  (tmp_path / 'photo.jpg').write_text('x')
  (line,) = said(tmp_path)
  assert f'{tmp_path} holds files that no run made, such as photo.jpg' in line
  (tmp_path / 'config.json').write_text('{}')
  assert said(tmp_path) == []


def test_a_text_that_is_read_more_than_once_is_told():
  line = data_progress.epochs_line
  assert line({'files': 2.44}) == 'The run reads each row of files 2.4 times.'
  assert line({'a': 0.5, 'b': 3.0, 'c': 1.25}) == (
    'The run reads rows of some sources more than once: b 3.0, c 1.2 times.'
  )
  assert line({f's{n}': 2.0 for n in range(10)}).endswith('s7 2.0, ... times.')
