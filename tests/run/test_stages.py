"""Stages in turn: what is trained, from what, and what is left after a kill.

Training itself is not tried here; see tests/end_to_end/test_stages.py.
"""

import json
import os
import shutil

import pytest

from moejax.cli import stages as command
from moejax.core import config_tree, errors, files
from moejax.run import report, stage_starts, stages

FILE = """
from moejax import config

STAGES = (
  config.Stage('words'),
  config.Stage('eyes'),
  config.Stage('both', {'words': '*', 'eyes': 'vision/encoder'}),
  config.Stage('all', {'both': '*'}),
  config.Stage('more', upcycles='all'),
)

def get_config(words):
  c = config.default()
  c.data.mixture = 'synthetic'
  c.seed = len(words)
  return c
"""


@pytest.fixture
def spec(tmp_path):
  (tmp_path / 'mine.py').write_text(FILE)
  return str(tmp_path / 'mine.py')


@pytest.fixture
def trained(monkeypatch):
  """What training and joining were asked for; training can be made to stop."""
  calls = []
  stops = set()

  def train(run, workdir, processes):
    name = workdir.rpartition('/')[2]
    calls.append((name, run.start.rpartition('runs/')[2]))
    folder = stages.epath.Path(workdir)
    folder.mkdir(parents=True, exist_ok=True)
    if name in stops:
      stops.remove(name)
      raise errors.InterruptedRunError('a signal')
    files.atomic_write_json(folder / 'config.json', config_tree.to_dict(run))
    rows = {'talk': {'loss': run.seed / 2, 'perplexity': 1.0}}
    report.write({'domains': rows}, folder)

  monkeypatch.setattr(stages.train, 'train', train)
  monkeypatch.setattr(
    stage_starts,
    'join',
    lambda run, sources, to, say: calls.append((
      'join',
      {path.rpartition('/')[2]: what for path, what in sources.items()},
      to.name,
    )),
  )
  monkeypatch.setattr(
    stage_starts,
    'upcycle',
    lambda run, source, to, say: calls.append((
      'upcycle',
      source.rpartition('/')[2],
      to.name,
    )),
  )
  return calls, stops


EVERYTHING = [
  ('words', ''),
  ('eyes', ''),
  ('join', {'words': '*', 'eyes': 'vision/encoder'}, 'both'),
  ('both', 'starts/both'),
  ('all', 'both'),
  ('upcycle', 'all', 'more'),
  ('more', 'starts/more'),
]


def test_each_stage_begins_with_those_that_it_names(spec, trained, tmp_path):
  command.main([f'--config={spec}', f'--workdir={tmp_path / "runs"}'])
  assert trained[0] == EVERYTHING


def test_after_a_stop_finished_stages_are_not_repeated(
  spec, trained, tmp_path, capsys
):
  calls, stops = trained
  flags = [f'--config={spec}', f'--workdir={tmp_path / "runs"}']
  stops.add('both')
  with pytest.raises(errors.InterruptedRunError):
    command.main(flags)
  assert calls == EVERYTHING[:4]
  calls.clear()
  command.main(flags)
  assert calls == EVERYTHING[2:]
  calls.clear()
  capsys.readouterr()
  command.main(flags)
  assert calls == []
  said = capsys.readouterr().out
  assert 'Stage 5 of 5, more: finished before.' in said
  assert 'All stages are finished' in said


def test_a_stage_that_has_begun_needs_no_start(spec, trained, tmp_path):
  (tmp_path / 'runs/both/checkpoints').mkdir(parents=True)
  command.main([f'--config={spec}', f'--workdir={tmp_path / "runs"}'])
  assert trained[0] == EVERYTHING[:2] + EVERYTHING[3:]


def test_a_start_is_made_anew_after_its_sources(spec, trained, tmp_path):
  folder = tmp_path / 'runs'
  flags = [f'--config={spec}', f'--workdir={folder}']
  command.main(flags)
  # As the docstring of the command says, to train `words` anew.
  for name in ('words', 'both', 'all', 'more'):
    shutil.rmtree(folder / name)
  starts = [
    folder / 'starts' / name / 'config.json' for name in ('both', 'more')
  ]
  for file, seconds in zip(starts, (1, 2**32), strict=True):
    file.parent.mkdir(parents=True)
    file.write_text('{}')
    os.utime(file, (seconds, seconds))
  command.main(flags)
  assert [file.exists() for file in starts] == [False, True]


def test_a_finished_stage_of_another_config_is_refused(spec, trained, tmp_path):
  flags = [f'--config={spec}', f'--workdir={tmp_path / "runs"}']
  command.main(flags)
  with pytest.raises(errors.InputError, match='words belongs to a run of'):
    command.main([*flags, '--config.opt.peak_lr=0.5'])
  trained[0].clear()
  command.main([*flags, '--config.train.steps=2000'])  # goes on
  assert trained[0] == EVERYTHING


def test_all_configs_are_read_before_the_first_stage(spec, trained, tmp_path):
  flags = [f'--config={spec}', f'--workdir={tmp_path / "runs"}']
  with pytest.raises(errors.InputError, match='peak_lrr'):
    command.main([*flags, '--config.opt.peak_lrr=0.5'])
  text = (tmp_path / 'mine.py').read_text()
  (tmp_path / 'mine.py').write_text(
    text.replace('len(words)', '1 if words != "all" else -1')
  )
  with pytest.raises(errors.InputError, match='seed=-1'):
    command.main(flags)
  assert trained[0] == []


def test_the_scores_of_all_stages_are_kept(spec, trained, tmp_path, capsys):
  folder = tmp_path / 'runs'
  command.main([f'--config={spec}', f'--workdir={folder}'])
  # The seeds are the lengths of the names: the losses are half of them.
  losses = {'words': 2.5, 'eyes': 2.0, 'both': 2.0, 'all': 1.5, 'more': 2.0}
  kept = json.loads((folder / 'results.json').read_text())
  assert {name: rows['talk']['loss'] for name, rows in kept.items()} == losses
  lines = capsys.readouterr().out.splitlines()
  assert ' '.join(lines[-3].split()) == 'talk 2.500 2.000 2.000 1.500 2.000'
  assert ' '.join(lines[-2].split()) == 'mean 2.500 2.000 2.000 1.500 2.000'


def test_the_table_of_answers():
  row = lambda exact, most: {'exact': exact, 'most_frequent': most, 'loss': 1.0}
  results = {
    'text': {'told': row(1.0, 0.2), 'colour': row(0.25, 0.3)},
    'sight': {'captions': row(0.5, 0.1)},
    'all': {'colour': row(0.9, 0.3), 'count': row(0.8, 0.4)},
  }
  title, *lines = stages.table(results)
  assert title.startswith('Exact answers')
  assert [line.split() for line in lines] == [
    ['most', 'frequent', 'text', 'all'],
    ['colour', '30.0%', '25.0%', '90.0%'],
    ['count', '40.0%', '-', '80.0%'],
    ['mean', '35.0%', '-', '85.0%'],
  ]
