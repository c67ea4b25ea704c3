"""Study 6 from counts and runs made by hand, and a run of two steps."""

import json
import math
import pathlib
from typing import ClassVar

import jax
import numpy as np
import pytest

from moejax import config
from moejax.core import errors
from moejax.moe.scorers.linear import Linear
from moejax.research import router_start

ROOT = pathlib.Path(__file__).parents[2]
ZOO = ROOT / 'configs' / 'zoo.py'


def test_balance_is_the_mean_over_layers():
  # Loads 1 and 1 of the mean; then one expert has all, and one is dead.
  found = router_start.balance_of({
    'count_E': np.array([[4, 4], [8, 0]]),
    'logit': np.array([1.0, 3.0]),
  })
  assert found == pytest.approx({
    'max': (1 + 2) / 2,
    'entropy': (1 + 0) / 2,
    'dead': 1 / 4,
    'logit': 2.0,
  })


@pytest.mark.parametrize('name', router_start.ENTRIES)
def test_a_start_changes_the_logits_by_a_factor_and_no_choice(name):
  run = config.load(f'{ZOO}:{name}')
  x_TD = np.random.default_rng(0).normal(size=(50, 16)).astype(np.float32)
  logits = {}
  for std in (0.02, 0.2):
    scorer = router_start.with_std(run, std).model.moe.scorer
    assert isinstance(scorer, Linear)
    weights = scorer.init(jax.random.key(1), 16, 8, std=0.5)
    logits[std] = x_TD @ np.asarray(weights['w_DE'][...])
  np.testing.assert_allclose(logits[0.2], 10 * logits[0.02], rtol=1e-4)
  np.testing.assert_array_equal(
    logits[0.2].argsort(axis=1), logits[0.02].argsort(axis=1)
  )


def started(entry, std, seed, *largest):
  balance = [
    {'max': x, 'entropy': 0.9, 'dead': 0.0, 'logit': 0.1} for x in largest
  ]
  return router_start.Started(entry, std, seed, balance)


RUNS = [
  started('a', 0.02, 0, 1.0, 2.0),
  started('a', 0.02, 1, 3.0, 4.0),
  started('a', 0.2, 0, 5.0, 6.0),
  started('b', 0.02, 0, 7.0, 8.0),
]


def test_runs_that_differ_in_their_seed_are_one_row():
  first, *rows = router_start.start_rows(RUNS)
  assert first[:4] == ['router', 'std', 'largest logit', 'load max/mean']
  assert rows[0] == [
    'a', '0.02', '0.10 ± 0.00', '2.00 ± 1.41', '0.900 ± 0.000',
    '0.000 ± 0.000', '2',
  ]  # fmt: skip
  assert [row[:2] for row in rows] == [['a', '0.02'], ['a', '0.2'],
                                       ['b', '0.02']]  # fmt: skip
  head, *rows = router_start.trained_rows(RUNS)
  assert head[2] == 'load max/mean, step 1'
  assert rows[1][2:] == ['6.00', '0.900', '0.000', '1']


def test_it_draws(tmp_path):
  router_start.draw(RUNS[:3]).savefig(tmp_path / 'x.png')
  assert (tmp_path / 'x.png').stat().st_size > 8_000


class Trained:
  """Stands for the trainer, and says what it was asked."""

  asked: ClassVar[list] = []

  def __init__(self, run):
    self.run = run

  def balance(self, std, seed, num_steps):
    self.asked.append((std, seed, num_steps))
    yield from started('x', std, seed, *[std] * num_steps).balance


def test_a_run_that_is_there_is_not_trained_again(tmp_path, monkeypatch):
  monkeypatch.setattr(router_start, 'Trainer', Trained)
  monkeypatch.setattr(Trained, 'asked', [])
  run = config.load(f'{ZOO}:switch')
  cells = [(0.02, 0), (0.2, 0)]
  both = router_start.runs_of(run, 'switch', cells, 3, tmp_path)
  assert Trained.asked == [(0.02, 0, 3), (0.2, 0, 3)]
  (tmp_path / 'switch-std=0.2-seed=0.json').write_text('{')
  Trained.asked.clear()
  assert router_start.runs_of(run, 'switch', cells, 3, tmp_path) == both
  assert Trained.asked == [(0.2, 0, 3)]
  # More steps, or another config, are another run; fewer are a part of it.
  Trained.asked.clear()
  fewer = router_start.runs_of(run, 'switch', cells, 2, tmp_path)
  assert [run.balance for run in fewer] == [run.balance[:2] for run in both]
  assert Trained.asked == []
  router_start.runs_of(run, 'switch', cells[:1], 4, tmp_path)
  other = config.load(f'{ZOO}:switch', [('model.num_layers', '2')])
  router_start.runs_of(other, 'switch', cells[:1], 4, tmp_path)
  assert Trained.asked == [(0.02, 0, 4), (0.02, 0, 4)]


@pytest.mark.parametrize(
  ('flags', 'message'),
  [
    (['--stds=0.02,big'], "--stds: 'big' is not a number above 0"),
    (['--stds=0'], "--stds: '0' is not a number above 0"),
    (['--entries=x_moe'], 'x_moe has no router whose start has a standard'),
    (['--entries=dense'], 'dense has no router whose start has a standard'),
    (['--entries=swich'], "unknown zoo entry 'swich'; did you mean 'switch'"),
    (['--out={}/none'], 'there is no folder'),
  ],
)
def test_bad_input_is_one_line(tmp_path, flags, message):
  flags = [f'--zoo={ZOO}', f'--workdir={tmp_path}', f'--out={tmp_path}', *flags]
  flags = {flag.partition('=')[0]: flag.format(tmp_path) for flag in flags}
  with pytest.raises(errors.InputError, match=message) as error:
    router_start.main([*flags.values()])
  assert '\n' not in str(error.value)


@pytest.mark.soak
def test_two_steps_of_two_starts_begin_with_the_same_loads(tmp_path):
  page = ROOT / 'docs' / 'studies' / 'router_start.md'
  (tmp_path / page.name).write_text(page.read_text())
  router_start.main([
    f'--zoo={ZOO}',
    f'--workdir={tmp_path / "runs"}',
    f'--out={tmp_path}',
    '--entries=deepseek_moe',
    '--stds=0.02,0.2',
    '--seeds=1',
    '--steps=2',
    '--config.data.mixture=synthetic',
    '--config.data.vocab=bytes',
    '--config.model.vocab_size=259',
    '--config.model.num_layers=1',
    '--config.data.sequence_length=32',
    '--config.opt.schedule.warmup=0',
  ])
  kept = json.loads((tmp_path / 'router_start.json').read_text())
  small, large = (run['balance'] for run in kept['trained'])
  for key in ('max', 'entropy', 'dead'):
    assert small[0][key] == large[0][key]
  assert large[0]['logit'] == pytest.approx(10 * small[0]['logit'], rel=1e-4)
  assert small[1]['entropy'] != large[1]['entropy']
  assert math.isfinite(small[1]['max'])
  text = (tmp_path / page.name).read_text()
  assert '| deepseek_moe |' in text
