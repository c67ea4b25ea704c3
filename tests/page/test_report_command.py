"""The command that writes the page, and what it says of bad input."""

import json

import pytest
from helpers import page_data

from moejax.cli import report
from moejax.core import errors
from moejax.run import page


def workdir(folder, **files):
  """A folder with some of the files of a run."""
  folder.mkdir()
  data = page_data.full()
  rows = [json.dumps(row) + '\n' for row in data.metrics]
  texts = {
    'config.json': json.dumps(data.config),
    'metrics.jsonl': ''.join(rows),
    'report.json': json.dumps(data.report),
    **files,
  }
  for name, text in texts.items():
    if text is not None:
      (folder / name).write_text(text)
  return folder


def test_a_page_is_written_into_the_workdir(tmp_path, capsys):
  folder = workdir(tmp_path / 'run')
  report.main([f'--workdir={folder}'])
  path = folder / 'report.html'
  assert capsys.readouterr().out.strip() == f'Page: {path}'
  text = path.read_text()
  assert text.startswith('<!DOCTYPE html>')
  assert '<h1>run</h1>' in text
  assert 'Interventions: it needs results of moejax intervene.' in text


def test_interventions_are_found(tmp_path):
  folder = workdir(tmp_path / 'run')
  (folder / 'interventions').mkdir()
  result = json.dumps(page_data.intervention())
  (folder / 'interventions' / 'mask_top.json').write_text(result)
  assert 'interventions' in page.make([str(folder)]).sections


def test_several_runs_are_compared(tmp_path):
  folders = [workdir(tmp_path / name) for name in ('a', 'b')]
  out = tmp_path / 'both.html'
  report.main([*(f'--workdir={f}' for f in folders), f'--out={out}'])
  assert '2 runs compared' in out.read_text()


@pytest.mark.parametrize(
  ('files', 'shown', 'left_out'),
  [
    (
      {'metrics.jsonl': None, 'report.json': None},
      ['summary', 'config'],
      ['Training', 'Samples'],
    ),
    ({'report.json': None}, ['summary', 'training', 'experts'], ['Samples']),
    # The last line was cut by a kill.
    (
      {'metrics.jsonl': '{"step": 1, "loss": 3.0}\n{"step": 2, "lo',
       'report.json': None},
      ['summary', 'training'],
      ['Samples'],
    ),
  ],
)  # fmt: skip
def test_an_unfinished_or_empty_run_shows_what_is_there(
  tmp_path, files, shown, left_out
):
  made = page.make([str(workdir(tmp_path / 'run', **files))])
  assert set(shown) <= set(made.sections)
  for title in left_out:
    assert f'{title}: it needs' in made.html


@pytest.mark.parametrize(
  ('flags', 'message'),
  [
    (['--workdir={}/none'], r'none: there is no such folder'),
    (['--workdir={}/other'], r'is not the folder of a run: it has none of con'),
    (['--workdir={}/run', '--workdir={}/run'], r'--out=both\.html'),
    (['--workdir={}/run', '--out={}/no/x.html'], r'there is no folder'),
    (['--workdir={}/run', '--config.seed=1'], r'--config\.seed changes noth'),
    (['--workdir={}/bad'], r'bad/report\.json is not JSON'),
  ],
)
def test_bad_input_is_one_line(tmp_path, flags, message):
  workdir(tmp_path / 'run')
  workdir(tmp_path / 'bad', **{'report.json': '{'})
  (tmp_path / 'other').mkdir()
  with pytest.raises(errors.InputError, match=message) as error:
    report.main([flag.format(tmp_path) for flag in flags])
  assert '\n' not in str(error.value)


def test_a_page_that_cannot_be_written_does_not_fail_the_run(
  tmp_path, monkeypatch
):
  def fails(*_, **__):
    raise OSError('no space')

  monkeypatch.setattr(page, 'write', fails)
  said = []
  page.write_or_say([str(tmp_path)], tmp_path / 'x.html', said.append)
  assert said == ['The page could not be written: no space']


def test_a_page_that_is_made_writes_nothing(tmp_path):
  folder = workdir(tmp_path / 'run')
  before = sorted(folder.rglob('*'))
  page.make([str(folder)])
  assert sorted(folder.rglob('*')) == before


def test_runs_are_called_by_what_differs_in_their_paths():
  assert page.names(['runs/x', 'runs/y']) == ['x', 'y']
  assert page.names(['/a/x', '/b/x']) == ['a/x', 'b/x']
  assert page.names(['runs/x/']) == ['x']
