"""`evaluate --suite`: from workdirs and a folder of rows to one table."""

import json

import jax
import pytest
from helpers import programs, tiny

from moejax.cli import evaluate
from moejax.config import Run
from moejax.core import config_tree, exits, files
from moejax.data.config import DataConfig
from moejax.data.vocab import Bytes
from moejax.evals import suite
from moejax.model import build
from moejax.model.config import ModelConfig
from moejax.moe.config import MoEConfig
from moejax.parallel import mesh as meshes
from moejax.train import checkpoint

MODEL = ModelConfig(
  vocab_size=259,
  max_length=48,
  num_layers=1,
  first_dense=0,
  width=16,
  num_heads=2,
  dense_width=16,
  moe=MoEConfig(num_experts=4, expert_width=8),
)
TASKS = '--tasks=piqa,lambada_openai'
PIQA = [
  {'goal': 'Boil it', 'sol1': 'Heat.', 'sol2': 'Cool.', 'label': 0},
  {'goal': 'Dry it', 'sol1': 'Wet.', 'sol2': 'Hang it up.', 'label': 1},
  {'goal': 'x' * 60, 'sol1': 'Now.', 'sol2': 'Then.', 'label': 1},
]
LAMBADA = [{'text': 'One two three'}, {'text': 'Four five'}]


@pytest.fixture(scope='module', autouse=True)
def _programs(tmp_path_factory):
  with programs.kept(tmp_path_factory.mktemp('compiled')):
    yield


def _workdir(folder, seed):
  folder.mkdir()
  data = DataConfig(mixture='synthetic', vocab=Bytes(), sequence_length=16)
  run = Run(model=MODEL, data=data)
  mesh = meshes.make(meshes.MeshConfig(data=1), jax.devices()[:1])
  model = build.build(run.model, mesh)
  files.atomic_write_json(folder / 'config.json', config_tree.to_dict(run))
  with checkpoint.Checkpointer(folder / 'checkpoints') as checkpoints:
    weights = tiny.draw(model.shapes, seed=seed, std=0.3)
    checkpoints.save(7, {'weights': weights}, {'metric': 1.0})
  return folder


def _write(folder, name, rows):
  (folder / name).mkdir(exist_ok=True)
  (folder / name / 'validation.jsonl').write_text('')
  for split in ('validation', 'test'):
    path = folder / name / f'{split}.jsonl'
    path.write_text('\n'.join(map(json.dumps, rows)))


@pytest.fixture(scope='module')
def place(tmp_path_factory):
  """Two workdirs and a folder of rows."""
  folder = tmp_path_factory.mktemp('place')
  _workdir(folder / 'a', 1)
  _workdir(folder / 'b', 2)
  (folder / 'rows').mkdir()
  _write(folder / 'rows', 'piqa', PIQA)
  _write(folder / 'rows', 'lambada_openai', LAMBADA)
  return folder


def _call(place, *flags, workdirs=('a',)):
  flags = [
    *(f'--workdir={place / name}' for name in workdirs),
    f'--data={place / "rows"}',
    *flags,
  ]
  return exits.call(evaluate.main, flags)


def _no_engine(monkeypatch):
  def fail(*_, **__):
    raise AssertionError('scored')

  monkeypatch.setattr(suite, 'score', fail)


def test_a_table_sets_runs_beside_each_other_and_beside_papers(place, capsys):
  flags = ['--suite=libmoe', TASKS, f'--out={place / "both.json"}']
  assert _call(place, *flags, workdirs=('a', 'b')) == exits.DONE
  out, err = capsys.readouterr()
  head, _, *rows = [line.split('|') for line in out.splitlines() if '|' in line]
  titles = [cell.strip() for cell in head]
  assert titles[5].endswith('a step 7')
  assert titles[6:8] == [f'{place / "b"} step 7', 'p']
  assert 'SMoE 158M †' in titles
  names = [row[1].strip() for row in rows]
  assert names == ['piqa', 'lambada_openai', 'mean']
  published = rows[0][titles.index('SMoE 158M †')].strip()
  assert published == '57.9'
  assert 'as published, not measured here: arXiv 2505.10860' in out
  # The question of 60 letters does not fit into 48 tokens.
  assert 'piqa, ' in out
  assert '2 texts were longer' in out
  assert 'piqa (1 of 2): 3 items' in err
  both = json.loads((place / 'both.json').read_text())
  assert [run['step'] for run in both['runs']] == [7, 7]
  assert both['runs'][0]['tasks']['piqa']['items'] == 3
  assert (place / 'both.md').read_text() == out


def test_finished_tasks_are_not_scored_twice(place, monkeypatch, capsys):
  flags = ['--suite=lm_eval', TASKS, '--json']
  kept = place / 'a' / 'evals' / 'lm_eval' / 'step_7'

  real, calls = suite.score, []

  def interrupted(task, *args):
    calls.append(task.name)
    if task.name == 'lambada_openai' and len(calls) == 2:
      raise KeyboardInterrupt
    return real(task, *args)

  monkeypatch.setattr(suite, 'score', interrupted)
  assert _call(place, *flags) == exits.INTERRUPTED
  assert [path.name for path in kept.iterdir()] == ['piqa.json']
  capsys.readouterr()
  assert _call(place, *flags) == exits.DONE
  assert calls == ['piqa', 'lambada_openai', 'lambada_openai']
  out, err = capsys.readouterr()
  assert 'piqa (1 of 2): done before' in err
  _no_engine(monkeypatch)
  assert _call(place, *flags) == exits.DONE
  assert json.loads(capsys.readouterr().out) == json.loads(out)


def test_other_prompts_or_settings_are_scored_anew(place, monkeypatch, capsys):
  flags = ['--suite=lm_eval', '--tasks=piqa', '--limit=2']
  assert _call(place, *flags) == exits.DONE
  _no_engine(monkeypatch)
  assert _call(place, *flags) == exits.DONE
  with pytest.raises(AssertionError, match='scored'):
    _call(place, *flags[:2], '--limit=1')
  assert 'made with other limit, prompts; it is made anew' in (
    capsys.readouterr().err
  )
  _write(place / 'rows', 'piqa', [{**row, 'goal': '?'} for row in PIQA])
  try:
    with pytest.raises(AssertionError, match='scored'):
      _call(place, *flags)
    assert 'made with other prompts' in capsys.readouterr().err
  finally:
    _write(place / 'rows', 'piqa', PIQA)


@pytest.mark.parametrize(
  ('flags', 'words'),
  [
    (['--suite=libmo'], "unknown suite 'libmo'; did you mean 'libmoe'?"),
    (['--tasks=piqua'], "suite lm_eval 'piqua'; did you mean 'piqa'?"),
    (['--tasks=boolq'], "has no folder 'boolq'"),
    ([], 'needs --suite'),
    (['--suite=libmoe', '--published=smoe'], "did you mean 'smoe_"),
    (['--suite=lm_eval', '--published=smoe_158m'], 'no paper has printed'),
    (['--tasks=piqa', '--limit=0'], '--limit=0 must be 1 or more'),
    (['--tasks=piqa', '--step=8'], 'no checkpoint 8 in'),
  ],
)
def test_wrong_flags_are_one_line(flags, words, place, capsys):
  assert _call(place, *flags) == exits.BAD_INPUT
  out, err = capsys.readouterr()
  assert out == ''
  assert words in err.splitlines()[-1]


def test_evaluations_are_of_one_run(place, capsys):
  workdirs = [f'--workdir={place / name}' for name in 'ab']
  assert exits.call(evaluate.main, workdirs) == exits.BAD_INPUT
  assert 'several --workdir need --suite' in capsys.readouterr().err
  flags = ['--tasks=piqa']
  assert _call(place, *flags, workdirs='aa') == exits.BAD_INPUT
  assert 'names a workdir twice' in capsys.readouterr().err
