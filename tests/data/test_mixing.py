"""Rates of a mixture, and what a run has read: beside slow countings."""

import numpy as np
import pytest

from moejax.core import errors
from moejax.data import features, loader, mixing, sources


class Numbered:
  """Rows that say which they are; row n has n % 3 places of padding."""

  length = 4
  first_id = 0

  def __init__(self, domain, num_rows, padded=False):
    self.domain, self.num_rows, self.padded = domain, num_rows, padded
    self.num_tokens = int((4 - self._padding(np.arange(num_rows))).sum())

  def _padding(self, index_N):
    return index_N % 3 * self.padded

  def rows(self, index_N):
    target_NL = np.repeat(np.stack([index_N + 1], 1), 4, axis=1)
    filled_NL = np.arange(4) < 4 - self._padding(index_N)[:, None]
    return features.Rows(
      np.where(filled_NL, 1000 * self.domain + target_NL, 0), filled_NL
    )


def _counts(sizes, rates, batch_size=12, padded=False):
  readers = {f's{n}': Numbered(n, size, padded) for n, size in enumerate(sizes)}
  train = loader.Loader(readers, rates, batch_size, seed=3)
  return mixing.Counts(train, readers)


def _counted(counts, steps):
  """Rows and tokens of each source in the first steps, read one by one."""
  rows, tokens = np.zeros(3, int), np.zeros(3, int)
  for step in range(steps):
    batch = counts.train.batch(step)
    for target_L, weight_L in zip(
      batch.target_BL, batch.weight_BL, strict=True
    ):
      domain = (target_L[0] - 1) // 1000
      rows[domain] += 1
      tokens[domain] += int(weight_L.sum())
  return rows, tokens


def test_rows_and_tokens_by_step_are_those_of_the_batches():
  counts = _counts((7, 100, 400), (1, 2, 5))
  for steps in (0, 1, 85, 86, 200):  # 85.3 steps of 12 rows are one block
    rows, tokens = _counted(counts, steps)
    assert mixing.rows_before(counts.train, steps).tolist() == rows.tolist()
    assert [*counts.tokens(steps).values()] == tokens.tolist()


def test_tokens_of_padded_rows_are_exact_after_whole_epochs():
  # One source in every place: an epoch of 6 rows is half a step.
  counts = _counts((6,), (1,), padded=True)
  for steps in (1, 2, 50):
    _, tokens = _counted(counts, steps)
    assert counts.tokens(steps) == {'s0': tokens[0]}
    assert counts.epochs(steps) == {'s0': 2 * steps}
  uneven = _counts((7,), (1,), padded=True)
  _, tokens = _counted(uneven, 1)
  assert abs(uneven.tokens(1)['s0'] - tokens[0]) < 4


def test_a_long_run_is_counted_without_overflow():
  counts = _counts((7, 100), (1, 1), batch_size=1024)
  step = 2**40
  assert counts.tokens(step) == {'s0': 2**49 * 4, 's1': 2**49 * 4}


def test_the_schedule_of_a_mixture_by_hand():
  """Rates 2 : 1 : 1 are 512, 256 and 256 of every 1024 rows."""
  counts = _counts((100, 100, 100), (2, 1, 1), batch_size=256)
  assert mixing.rows_before(counts.train, 4).tolist() == [512, 256, 256]
  assert mixing.rows_before(counts.train, 40).tolist() == [5120, 2560, 2560]
  assert counts.epochs(40) == {'s0': 51.2, 's1': 25.6, 's2': 25.6}


@pytest.mark.parametrize('num_rows', [0, 1, 7, 255, 256, 257, 1000])
def test_the_last_step_within_a_limit_is_that_of_a_scan(num_rows):
  counts = _counts((50, 50, 50), (1, 2, 1))
  steps = 0
  while _counted_rows(counts.train, steps + 1)[0] <= num_rows:
    steps += 1
  assert mixing.steps_within(counts.train, 0, num_rows) == steps


def _counted_rows(train, steps):
  domain_N, _ = train.locate(np.arange(steps * train.batch_size))
  return np.bincount(domain_N, minlength=3)


def test_a_source_of_rate_0_is_never_read():
  counts = _counts((5, 5, 5), (1, 0, 3))
  assert counts.train.quota_D.tolist() == [256, 0, 768]
  assert counts.tokens(100)['s1'] == 0
  with pytest.raises(errors.InputError, match='s0, s1 are all 0'):
    _counts((5, 5), (0, 0))


def _source(**keys):
  return sources.Source(**{'name': 'a', 'files': 'x', **keys})


@pytest.mark.parametrize(
  ('temperature', 'rates'),
  [(None, [1, 1]), (1, [1, 0.01]), (2, [1, 0.1]), (1e9, [1, 1])],
)
def test_a_temperature_mixes_by_size(temperature, rates):
  listed = [_source(), _source(name='b')]
  found = mixing.rates(listed, [10_000, 100], temperature)
  np.testing.assert_allclose(found, rates, rtol=1e-6)


def test_rates_multiply_a_temperature_and_budgets_are_rates():
  listed = [_source(rate=3.0), _source(name='b')]
  assert mixing.rates(listed, [100, 50], 1) == [3, 0.5]
  budgets = [_source(tokens=3e9), _source(name='b', tokens=1e9)]
  assert mixing.rates(budgets, [5, 5]) == [3e9, 1e9]
  assert mixing.rates([*budgets, _source(rate=0.0)], [5] * 3) == [3e9, 1e9, 0]


def test_a_source_that_is_used_up_is_one_line():
  counts = _counts((500, 500), (1, 3), batch_size=64)
  listed = [_source(name='s0', max_epochs=2.0), _source(name='s1')]
  # 1000 rows of s0, 256 in every 1024: within 62.5 steps of 64 rows.
  last = mixing.steps_within(counts.train, 0, 1000)
  assert 60 < last <= 63
  mixing.check(listed, counts.train, counts, last)
  with pytest.raises(errors.InputError) as caught:
    mixing.check(listed, counts.train, counts, 96)
  line = str(caught.value)
  assert f'data.sources.s0 is used up after step {last} of 96' in line
  assert 'max_epochs=3.08 or more' in line
  assert len(line.splitlines()) == 1
  # With what the line says, the run goes to its end.
  enough = [_source(name='s0', max_epochs=3.08), listed[1]]
  mixing.check(enough, counts.train, counts, 96)


def test_budgets_that_are_used_up_are_one_line():
  counts = _counts((500, 500), (1, 3), batch_size=64)
  listed = [_source(name='s0', tokens=1e3), _source(name='s1', tokens=3e3)]
  mixing.check(listed, counts.train, counts, 16)  # of 256 tokens
  with pytest.raises(errors.InputError, match='set train.steps=15'):
    mixing.check(listed, counts.train, counts, 100)


def test_a_rate_that_is_rounded_much_has_a_line():
  listed = [_source(name=name) for name in ('web', 'rare', 'none')]
  rates = [1.0, 0.0002, 0.0]
  train = _counts((500, 500, 500), rates).train
  (line,) = mixing.rounded(listed, rates, train.quota_D).items()
  assert line == (
    'rare',
    'data.sources.rare is read as 1 of every 1,024 rows: its share of all '
    'rates, 0.0002, is rounded to 1/1024',
  )
  rates = [2.0, 1.0, 0.01]  # 680.3, 340.2 and 3.4 rows
  train = _counts((500, 500, 500), rates).train
  assert not mixing.rounded(listed[:2], rates[:2], train.quota_D[:2])
  assert [*mixing.rounded(listed, rates, train.quota_D)] == ['none']
