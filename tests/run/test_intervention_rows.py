"""Rows of an intervention's results, from measurements made by hand."""

import pytest

from moejax.evals.suite import Result
from moejax.run import intervention_rows


def _set(loss, rows, bits=2.0):
  return {'loss': loss, 'bits_per_byte': bits, 'rows': rows}


def _task(*values, metric='acc', digest='same', score=None):
  mean = sum(values) / len(values) if score is None else score
  return Result(
    benchmark='piqa',
    metric=metric,
    means={metric: mean},
    errors={metric: None},
    groups={},
    values={'acc': list(values)},
    items=len(values),
    left_out=0,
    cut=0,
    shots=0,
    digest=digest,
    note='',
  ).to_json()


def _row(measured, value, on):
  (row,) = [
    row
    for row in intervention_rows.rows(measured, 'unchanged')
    if (row['value'], row['on']) == (value, on)
  ]
  return row


def test_a_difference_of_a_benchmark_is_that_of_the_scores():
  """One item of four is lost, the second."""
  measured = {
    'unchanged': {'sets': {}, 'tasks': {'piqa': _task(1, 1, 0, 1)}},
    '1/8': {'sets': {}, 'tasks': {'piqa': _task(1, 0, 0, 1)}},
  }
  row = _row(measured, '1/8', 'piqa')
  assert (row['score'], row['difference']) == (0.5, -0.25)
  assert row['low'] <= -0.5 < -0.25 < row['high'] <= 0
  assert row['number'] == 0.125
  first = _row(measured, None, 'piqa')
  assert (first['score'], first['difference'], first['low']) == (
    0.75,
    None,
    None,
  )


@pytest.mark.parametrize(
  'changed', [{'digest': 'other items'}, {'metric': 'perplexity', 'score': 3.0}]
)
def test_items_that_are_not_the_same_have_no_interval(changed):
  whole = (
    {'metric': changed['metric'], 'score': 2.0} if 'metric' in changed else {}
  )
  measured = {
    'unchanged': {'sets': {}, 'tasks': {'piqa': _task(1, 1, **whole)}},
    '4': {'sets': {}, 'tasks': {'piqa': _task(0, 0, **changed)}},
  }
  row = _row(measured, '4', 'piqa')
  assert row['difference'] == (1.0 if whole else -1.0)
  assert (row['low'], row['high']) == (None, None)


def test_the_mean_of_sets_counts_them_alike():
  """Rows are (nats, tokens); the second set has ten times the tokens."""
  measured = {
    'unchanged': {
      'sets': {
        'code': _set(3.0, [[30, 10], [30, 10]]),
        'news': _set(5.0, [[500, 100], [500, 100]], bits=None),
      },
      'tasks': {},
    },
    '2': {
      'sets': {
        'code': _set(4.0, [[40, 10], [40, 10]]),
        'news': _set(5.5, [[550, 100], [550, 100]], bits=None),
      },
      'tasks': {},
    },
  }
  assert _row(measured, '2', 'code')['difference'] == 1.0
  assert _row(measured, '2', 'code')['low'] == pytest.approx(1.0)
  mean = _row(measured, '2', 'mean')
  assert (mean['score'], mean['difference']) == (4.75, 0.75)
  assert mean['bits_per_byte'] is None
  assert mean['low'] < 0.75 < mean['high']


def test_values_come_in_their_order_as_numbers_after_the_unchanged_model():
  one = {'sets': {'code': _set(3.0, [[30, 10], [30, 10]])}, 'tasks': {}}
  measured = dict.fromkeys(('10', '1/4', 'unchanged', '2'), one)
  rows = intervention_rows.rows(measured, 'unchanged')
  assert [row['value'] for row in rows] == [None, '1/4', '2', '10']
