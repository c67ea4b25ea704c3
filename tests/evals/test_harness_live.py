"""lm-evaluation-harness finds the same with moejax as with transformers.

  make test-harness
  MOEJAX_HARNESS_PYTHON=... python -m pytest -m harness tests/evals

Both have the same exported weights, in float32, and tasks of every kind of
request, in files. MOEJAX_HARNESS_PYTHON names a Python with lm_eval[hf], torch
and what moejax imports.
"""

import json
import os
import pathlib
import subprocess

import pytest

from moejax.cli import convert

pytestmark = [pytest.mark.harness, pytest.mark.slow]

ROOT = pathlib.Path(__file__).parents[2]
SCRIPT = ROOT / 'tests' / 'golden' / 'harness_models.py'
TASKS = ('options', 'letters', 'sentences', 'last_word', 'rolling', 'until')


def run(words, place):
  done = subprocess.run(
    [os.environ['MOEJAX_HARNESS_PYTHON'], *map(str, words)],
    capture_output=True,
    text=True,
    check=False,
    timeout=900,
    env={
      **os.environ,
      'PYTHONPATH': str(ROOT),
      'HF_HOME': str(place / 'home'),
      'HF_HUB_OFFLINE': '1',
      'HF_DATASETS_OFFLINE': '1',
      'XLA_FLAGS': '',
    },
  )
  assert done.returncode == 0, done.stderr[-3000:]
  return done


@pytest.fixture(scope='module')
def place(tmp_path_factory):
  """A folder with a model as a workdir, exported again, and its tasks."""
  if 'MOEJAX_HARNESS_PYTHON' not in os.environ:
    pytest.skip('MOEJAX_HARNESS_PYTHON names no Python with lm_eval')
  folder = tmp_path_factory.mktemp('harness')
  run([SCRIPT, 'make', folder], folder)
  workdir = f'--workdir={folder}/run'
  convert.main(['import', str(folder / 'hf'), workdir])
  convert.main(['export', workdir, f'--to={folder}/exported'])
  return folder


@pytest.fixture(scope='module')
def both(place):
  """What the harness finds: that of transformers, and that of moejax."""
  arguments = {
    'hf': f'pretrained={place}/exported,dtype=float32',
    'moejax': f'pretrained={place}/run,config.model.dtype=float32',
  }
  found = []
  for kind, words in arguments.items():
    out = place / f'{kind}.json'
    run([SCRIPT, 'evaluate', kind, words, place, out], place)
    found.append(json.loads(out.read_text()))
  return found


@pytest.mark.parametrize('form', ['plain', 'chat'])
def test_every_answer_is_the_same(both, form):
  hf, own = (found[form] for found in both)
  assert own['prompts'] == hf['prompts']
  assert form == 'chat' or set(own['answers']) == set(TASKS)
  for task, answers in hf['answers'].items():
    for mine, theirs in zip(own['answers'][task], answers, strict=True):
      for a, b in zip(flat(mine), flat(theirs), strict=True):
        close = isinstance(b, float)
        wanted = pytest.approx(b, abs=1e-4, rel=1e-5) if close else b
        assert a == wanted, task


@pytest.mark.parametrize('form', ['plain', 'chat'])
def test_every_result_is_the_same(both, form):
  hf, own = (found[form]['results'] for found in both)
  for task, values in hf.items():
    for name, value in values.items():
      mine = own[task][name]
      if isinstance(value, float):
        assert mine == pytest.approx(value, rel=1e-4), (task, name)
      else:
        assert mine == value


def test_the_command_knows_the_model(place, both):
  arguments = f'workdir={place}/run,pretrained={place}/run,step=newest'
  words = ['-m', 'moejax.cli.lm_eval', '--model', 'moejax', '--model_args']
  # Not `last_word`: the standard error of a perplexity so large overflows.
  words += [f'{arguments},config.model.dtype=float32', '--tasks', 'rolling']
  words += ['--include_path', place / 'tasks', '--output_path', place / 'out']
  run(words, place)
  (written,) = (place / 'out').glob('*/results_*.json')
  results = json.loads(written.read_text())
  wanted = both[1]['plain']['results']['rolling']['bits_per_byte,none']
  got = results['results']['rolling']['bits_per_byte,none']
  assert got == pytest.approx(wanted, rel=1e-5)
  assert results['config']['step'] == 0


def flat(answer):
  """The answers to the requests of a sample: numbers, booleans and texts.

  The file has some numbers and booleans as text.
  """
  if isinstance(answer, list):
    return [y for x in answer for y in flat(x)]
  if isinstance(answer, str):
    try:
      return [float(answer)]
    except ValueError:
      return [{'True': True, 'False': False}.get(answer, answer)]
  return [answer]
