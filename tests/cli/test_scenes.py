"""The command that draws scenes: what it says, and what it refuses."""

import json

import pytest

from moejax.cli import scenes
from moejax.core import errors


def test_scenes_are_drawn_once(tmp_path, capsys):
  folder = tmp_path / 'scenes'
  flags = [f'--to={folder}', '--train=12', '--held=5']
  scenes.main(flags)
  said = capsys.readouterr().out
  assert '12 conversations to train on and 5 about other scenes.' in said
  # 12 over five kinds of questions, the first two of which have one more.
  for kind, count in (('describe', 3), ('count', 3), ('relation', 2)):
    path = folder / 'train' / f'{kind}.json'
    assert len(json.loads(path.read_text())) == count
  scenes.main(flags)
  assert 'they were there already.' in capsys.readouterr().out


@pytest.mark.parametrize(
  ('flags', 'message'),
  [
    (['--train=4'], r'--train=4 must be from 5 to 1000000'),
    (['--config.seed=1'], r'--config\.seed: this command has no config'),
  ],
)
def test_bad_flags_are_one_line(flags, message, tmp_path):
  with pytest.raises(errors.InputError, match=message):
    scenes.main([f'--to={tmp_path / "scenes"}', *flags])
  assert not (tmp_path / 'scenes').exists()


def test_a_folder_of_other_files_is_left_alone(tmp_path):
  (tmp_path / 'train').mkdir()  # as if an earlier call was stopped
  (tmp_path / 'words.model.part').write_text('')
  (tmp_path / 'notes.txt').write_text('')
  before = sorted(tmp_path.rglob('*'))
  flags = [f'--to={tmp_path}', '--train=5', '--held=5']
  with pytest.raises(errors.InputError, match="other files, such as 'notes"):
    scenes.main(flags)
  assert sorted(tmp_path.rglob('*')) == before
  (tmp_path / 'notes.txt').unlink()
  scenes.main(flags)
  assert (tmp_path / 'scenes.json').exists()


def test_a_folder_of_damaged_scenes_says_so(tmp_path):
  (tmp_path / 'scenes.json').write_text('{"train": 8')
  with pytest.raises(errors.InputError, match=r'scenes\.json is damaged: rem'):
    scenes.main([f'--to={tmp_path}'])


def test_a_folder_that_is_a_file_is_refused(tmp_path):
  (tmp_path / 'scenes').write_text('')
  with pytest.raises(errors.InputError, match='--to .*scenes.* is a file'):
    scenes.main([f'--to={tmp_path / "scenes"}'])
