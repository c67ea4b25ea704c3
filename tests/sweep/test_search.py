"""Searches: what is chosen, pruned, gone on with, and refused."""

import copy
import importlib.util
import json

import pytest
from helpers import far, sweeping

from moejax.core import exits
from moejax.sweep import search_work
from moejax.sweep.sweep import Sweep

HEAD = """from moejax import sweep


def get_sweep():
  run = sweep.run(
    'configs/tiny.py:tiny', {'train.steps': 3, 'train.eval_every': 1}
  )
"""
SEARCH = """  return sweep.search(
    run,
    {
      'opt.peak_lr': sweep.log_uniform(1e-4, 1),
      'opt.schedule.name': sweep.choice(['cosine', 'constant']),
    },
    num=4,
    startup=2,
  )
"""
NAMES = [f'tiny-trial={i}' for i in range(4)]
KEYS = ('opt.peak_lr', 'opt.schedule.name')


@pytest.fixture
def place(tmp_path, monkeypatch):
  monkeypatch.setattr(search_work, 'LOOK_S', 0)
  return sweeping.Place(tmp_path, monkeypatch, HEAD + SEARCH)


def _values(place, names=NAMES):
  """The values that runs were trained with."""
  flags = map(place.flags, names)
  return [tuple(one[f'config.{key}'] for key in KEYS) for one in flags]


def _tries(place):
  return [place.tries(name) for name in NAMES]


def test_a_search_trains_what_it_chooses(place):
  code, out, _ = place.call()
  assert code == exits.DONE, out
  values = _values(place)
  assert len({*values}) == 4
  for (rate, schedule), run in zip(
    values, place.results().values(), strict=True
  ):
    assert 1e-4 <= float(rate) <= 1
    assert schedule in {'cosine', 'constant'}
    if run['status'] == 'finished':
      assert run['loss'] == sweeping.loss_at(float(rate))
  # The best is the first of the values that are listed.
  best = min(values, key=lambda pair: sweeping.loss_at(float(pair[0])))
  text = (place.workdir / 'results.md').read_text()
  table = text[text.index('opt.peak_lr') :].splitlines()
  assert [cell.strip() for cell in table[2].split('|')[3:5]] == [*best]


def test_the_same_values_come_in_one_go_and_one_by_one(place):
  for i in range(4):
    assert place.call(f'--index={i}')[0] == exits.DONE
  one_by_one = _values(place)
  place.workdir = place.folder / 'other'
  place.call()
  assert _values(place) == one_by_one
  # Another seed chooses others.
  _, seeded = _trials(place, 'startup=2, seed=1')
  assert seeded.begin(0)['opt.peak_lr'] != one_by_one[0][0]


def _trials(place, rules):
  """A search with such rules in a new folder: its sweep, and its trials."""
  place.file.write_text((HEAD + SEARCH).replace('startup=2', rules))
  sweep = Sweep(str(place.file), (), str(place.folder / rules))
  return sweep, sweep.journal


def _pruned(place, rules, losses):
  """At which step runs with these losses at steps 1, 2, ... are pruned."""
  _, journal = _trials(place, rules)
  steps = []
  for i, run in enumerate(losses):
    journal.begin(i)
    pruned = (s for s, x in enumerate(run, 1) if journal.report(i, s, x))
    steps.append(next(pruned, None))
    if steps[-1] is None:
      journal.finish(i, run[-1])
    else:
      journal.prune(i)
  return steps


def test_the_median_prunes_what_is_above_it_after_a_while(place):
  # The medians of the runs before are 2 and 1 (steps 1 and 2).
  losses = [(1, 1), (2, 1), (3, 2), (2.5, 0.5), (1.5, 1.5), (1.9, 1.2)]
  assert _pruned(place, 'startup=3', losses) == [*3 * [None], 1, 2, 2]
  assert _pruned(place, 'startup=5', losses)[:5] == 5 * [None]
  # Before step 2 no run is judged; then its best loss counts: 0.5, 1.5, 1.2.
  assert _pruned(place, 'startup=3, warmup=2', losses) == [*4 * [None], 2, 2]


def test_halving_lets_a_quarter_go_on(place):
  # At the rung of step 1 a run goes on if it is the best so far.
  losses = [(5,), (1,), (2,), (3,), (4,), (0.5,)]
  pruned = _pruned(place, "pruner='halving', startup=0", losses)
  assert pruned == [None, None, 1, 1, 1, None]
  assert _pruned(place, "pruner='none', startup=0", losses) == 6 * [None]


def test_a_bad_run_is_stopped_and_listed(place):
  acts = {name: {'loss': 1.0} for name in NAMES}
  # It would wait after its second evaluation. Pruned runs are not its fellows.
  acts[NAMES[2]] = {'loss': 1.7, 'waits': 2}
  place.act(**acts)
  code, out, _ = place.call()
  assert code == exits.DONE
  assert [line for line in out if line.startswith(f'{NAMES[2]}: pruned at st')]
  results = place.results()
  assert [results[name]['status'] for name in NAMES[:2]] == 2 * ['finished']
  bad = results[NAMES[2]]
  # 2.7 at step 1, where the others had 2.
  assert (bad['status'], bad['note']) == ('pruned', 'at step 1 of 3')
  log = place.workdir / NAMES[2] / 'log.txt'
  assert f'- {NAMES[2]} pruned: at step 1 of 3 ({log})' in out
  assert 'interrupted: as asked' in log.read_text()
  # It is not trained again, and the search is at its end.
  assert place.call()[0] == exits.DONE
  assert _tries(place) == 4 * [1]


def test_a_failed_run_is_tried_again_with_its_values(place):
  place.act(**{NAMES[1]: {'codes': [2, 0]}, NAMES[3]: {'codes': [1, 1, 0]}})
  code, _, err = place.call()
  assert code == exits.STOPPED
  assert f'2 of 4 runs failed: {NAMES[1]}, {NAMES[3]}' in err[0]
  before = _values(place)
  assert _tries(place) == 4 * [1]
  assert place.call('--retry=1')[0] == exits.DONE
  assert _values(place) == before
  assert _tries(place) == [1, 2, 1, 3]
  journal = Sweep(str(place.file), (), str(place.workdir)).journal
  rate = float(before[3][0])
  assert journal._trial(3).value == sweeping.loss_at(rate)


def test_an_interrupted_run_goes_on_with_its_values(place):
  place.act(**{NAMES[1]: {'codes': [75, 0]}})
  assert place.call('--index=0')[0] == exits.DONE
  assert place.call('--index=1')[0] == exits.INTERRUPTED
  (before,) = _values(place, NAMES[1:2])
  assert Sweep(str(place.file), (), str(place.workdir)).journal.is_open(1)
  assert place.call('--table')[0] == exits.DONE
  assert place.results()[NAMES[1]]['status'] == 'interrupted'
  assert place.call()[0] == exits.DONE
  assert _values(place, NAMES[1:2]) == [before]
  assert _tries(place) == [1, 2, 1, 1]


def test_a_run_whose_sweep_was_killed_at_its_end_counts(place):
  sweep = Sweep(str(place.file), (), str(place.workdir))
  sweep.journal.begin(0)
  folder = place.workdir / NAMES[0]
  folder.mkdir()
  domains = {'text': {'loss': 0.25, 'bits_per_byte': 0.1}}
  report = json.dumps({'steps': 3, 'domains': domains})
  (folder / 'report.json').write_text(report)
  assert place.call('--index=1')[0] == exits.DONE
  assert place.call()[0] == exits.DONE
  assert _tries(place) == [0, 1, 1, 1]
  again = Sweep(str(place.file), (), str(place.workdir))
  assert not again.journal.is_open(0)
  assert again.journal._trial(0).value == 0.25


def test_the_first_that_tells_a_trial_is_right(place, monkeypatch):
  _, journal = _trials(place, 'startup=2')
  journal.begin(0)
  before = copy.deepcopy(journal._trial(0))
  journal.finish(0, 1.0)
  with monkeypatch.context() as patch:
    # As another process has seen it a moment ago.
    patch.setattr(journal, '_trial', lambda index: before)
    journal.finish(0, 2.0)
  assert journal._trial(0).value == 1.0


def test_values_that_make_no_config_together_fail_alone(place):
  place.file.write_text(
    HEAD
    + """  return sweep.search(
    run,
    {
      'model.moe.num_experts': sweep.choice([4, 16]),
      'model.moe.router.k': sweep.choice([2, 8]),
    },
    num=4,
    startup=4,
    seed=2,
  )
"""
  )
  code, _, err = place.call()
  assert code == exits.STOPPED
  statuses = {r['status'] for r in place.results().values()}
  assert statuses == {'finished', 'failed'}
  # The next start goes on in spite of them.
  assert place.call()[0] == exits.STOPPED
  for name, run in place.results().items():
    assert (place.tries(name) == 0) == (run['status'] == 'failed')
    if run['status'] == 'failed':
      assert 'router.k=8' in run['note']


def _search(space, more='num=2'):
  return HEAD + f'  return sweep.search(run, {space}, {more})\n'


RATE = "{'opt.peak_lr': sweep.log_uniform(1e-4, 1)}"
BAD = {
  '{}': 'sweep.search: the space is empty; name keys',
  "{'opt.peek_lr': sweep.uniform(0.1, 1)}": "did you mean 'opt.peak_lr'?",
  "{'opt.peak_lr': sweep.log_uniform(0, 1)}": '0 has no logarithm',
  "{'opt.peak_lr': sweep.uniform(1, 0.1)}": 'the lower end must be below',
  "{'opt.peak_lr': sweep.uniform(0.1, 10**9)}": 'opt.peak_lr=1000000000',
  "{'opt.peak_lr': sweep.uniform(0.1, float('nan'))}": 'not a finite number',
  "{'opt.peak_lr': [0.1, 0.2]}": '[0.1, 0.2] is no range; use one of',
  "{'train.batch_size': sweep.integers(-4, 8)}": 'train.batch_size=-4 must be',
  "{'train.batch_size': sweep.integers(1, 2.5)}": '2.5 is not a whole number',
  "{'train.batch_size': sweep.uniform(1, 8)}": 'train.batch_size',
  "{'model.moe.router': sweep.choice(['top_k', 'gshrd'])}": "'gshard'?",
  "{'model.moe.router': sweep.choice([])}": 'choice([]) needs a list',
  "{'model.moe.router': sweep.choice('gshard')}": 'needs a list of values',
  "{'train.batch_size': sweep.choice([8, '8'])}": "has '8' 2 times",
}


@pytest.mark.parametrize('space', sorted(BAD))
def test_a_bad_space_is_one_line_with_its_place(place, space):
  place.file.write_text(_search(space))
  code, out, err = place.call()
  assert (code, out) == (exits.BAD_INPUT, [])
  (line,) = err
  assert BAD[space] in line
  assert f'{place.file}:8: ' in line
  assert not place.workdir.exists()


@pytest.mark.parametrize(
  ('more', 'message'),
  [
    ('num=0', 'num=0 must be a whole number from 1 on'),
    (
      "num=2, pruner='medain'",
      "unknown pruner 'medain'; did you mean 'median'",
    ),
    ('num=2, seed=-1', 'seed=-1 must be a whole number from 0 on'),
  ],
)
def test_bad_rules_of_a_search_are_one_line(place, more, message):
  place.file.write_text(_search(RATE, more))
  code, _, err = place.call()
  assert code == exits.BAD_INPUT
  (line,) = err
  assert message in line


def test_a_search_that_cannot_be_begun_is_one_line(place, monkeypatch):
  def line(*flags):
    code, out, err = place.call(*flags)
    assert (code, out, len(err)) == (exits.BAD_INPUT, [], 1)
    return err[0]

  assert 'the sweep searches this key' in line('--config.opt.peak_lr=0.1')
  assert 'train.eval_every=1 has none in 1 steps' in line(
    '--config.train.steps=1'
  )
  place.file.write_text(_search(RATE).replace('(run,', '(2 * run,'))
  assert '2 runs are given' in line()
  place.file.write_text(_search(RATE))
  assert not place.workdir.exists()
  with monkeypatch.context() as patch:
    find = importlib.util.find_spec
    patch.setattr(
      importlib.util,
      'find_spec',
      lambda name: None if name == 'optuna' else find(name),
    )
    assert "pip install 'moejax[search]'" in line('--list')
  assert '--runner=xpk takes a list of runs' in line('--runner=xpk')
  far.store(monkeypatch, place.folder / 'gs')
  place.workdir = 'gs://bucket/mine'
  assert 'must be on a disk' in line()


def test_a_folder_of_another_search_is_refused(place):
  assert place.call('--index=0')[0] == exits.DONE
  text = place.file.read_text()
  place.file.write_text(text.replace('1e-4, 1)', '1e-3, 1)'))
  code, out, err = place.call()
  assert (code, out) == (exits.BAD_INPUT, [])
  (line,) = err
  assert 'has the trials of another search: opt.peak_lr (' in line
  assert 'low=0.001' in line
  # More runs of the same search are no other search.
  place.file.write_text(text.replace('num=4', 'num=5'))
  assert place.call('--list')[1][-1].startswith('1 of 5 finished')
