"""The table of a suite, of results whose numbers are written by hand."""

from moejax.evals.suite import Result
from moejax.run import suite_table
from moejax.run.suites import Scored


def _result(metric, means, errors, **changes):
  fields = {
    'benchmark': 'a',
    'metric': metric,
    'means': means,
    'errors': errors,
    'groups': {},
    'values': {metric: [1.0, 0.0, 1.0, 1.0]},
    'items': 4,
    'left_out': 0,
    'cut': 0,
    'shots': 0,
    'digest': 'same',
    'note': '',
  }
  return Result(**(fields | changes))


def _cells(results):
  """By task, the cells of its row."""
  lines = suite_table.lines([Scored('runs/a', 7, results)])
  rows = [line.split('|')[1:-1] for line in lines if line.startswith('|')]
  return {row[0].strip(): [cell.strip() for cell in row] for row in rows[2:]}


def test_a_score_stands_in_percent_before_its_standard_error():
  """Shares in percent; nats and perplexities as they are."""
  nll = _result(
    'perplexity',
    {'perplexity': 7.38906, 'nll': 2.0},
    {'perplexity': 4.26607, 'nll': 0.57735},
  )
  cells = _cells({
    'share': _result('acc', {'acc': 0.75}, {'acc': 0.25}),
    'alone': _result('acc', {'acc': 1.0}, {'acc': None}, items=1),
    'nats': nll,
  })
  assert cells['share'] == ['share', 'acc', '0', '4', '75.0 ± 25.0']
  assert cells['alone'][-1] == '100.0'
  assert cells['nats'][-1] == '7.389 ± 4.266'
  # Of the shares alone.
  assert cells['mean'][-1] == '87.5'


def test_pass_at_k_has_its_error_below_the_table():
  means = {'pass@1': 0.5, 'pass@10': 0.9}
  programs = _result(
    'pass@1',
    means,
    {'pass@1': 0.1, 'pass@10': 0.05},
    samples=20,
    temperature=0.8,
  )
  assert suite_table.lines([Scored('runs/a', 7, {'mbpp': programs})])[-1] == (
    'mbpp: 20 samples of each prompt at temperature 0.8; pass@10 90.0 ± 5.0.'
  )
