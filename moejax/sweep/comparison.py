"""Comparison: which rows of a sweep's table differ, and at which budgets."""

import textwrap
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from moejax.core import columns, table
from moejax.page import markup
from moejax.page.markup import Html
from moejax.sweep import paired
from moejax.sweep.results import FINISHED, SCORES, Result

MOST_SHOWN = 20  # pairs in the table
# By key of a result, what is spent, and how it is written.
BUDGETS = {
  'tokens': ('tokens', '{:,.0f}'.format),
  'flops': ('FLOPs of training', '{:.3g}'.format),
  'active': ('active parameters', '{:,.0f}'.format),
}
EQUAL = 0.05  # largest relative difference of equal budgets
HEAD = ('pair', 'difference', '95% interval', 'seeds', 'p', 'p (Holm)',
        'p (sign flips)')  # fmt: skip
CAPTION = (
  'Paired over seeds, less is better: a negative difference is for the first. '
  'p of the t-test, the same corrected for all pairs by Holm, and p of the '
  'exact test by flips of signs.'
)


class Comparison:
  """The rows of a sweep against each other, over their seeds.

  Attributes:
    pairs: all tests, surest first.
  """

  def __init__(
    self, results: Sequence[Result], score: str, against: str | None = None
  ):
    """Computes the tests.

    Args:
      results: of all runs.
      score: key of the number to compare by.
      against: name of the row to which the others are compared alone.
    """
    finished = [r for r in results if r['status'] == FINISHED]
    self._finished, self._score = finished, score
    self._scores: dict[str, dict[int, float]] = {}
    for result in finished:
      if result[score] is not None:
        seeds = self._scores.setdefault(result['group'], {})
        seeds[result['seed']] = result[score]
    self.pairs = paired.pairs(self._scores, against)

  def sentences(self) -> list[str]:
    """What the tests, the budgets and the types say."""
    said = [self._of_budgets(), self._of_types()] if self._finished else []
    if len(self._scores) > 1:
      said += self._of_pairs()
    return [sentence for sentence in said if sentence]

  def _of_pairs(self) -> list[str]:
    if not self.pairs:
      return [
        'No two rows have two seeds in common, so nothing is tested: '
        'differences may be those of seeds. sweep.seeds(runs, 3) trains more.'
      ]
    differ = sum(pair.holm < paired.LEVEL for pair in self.pairs)
    num, most = len(self.pairs), max(pair.num for pair in self.pairs)
    fewest = paired.fewest_seeds()
    said = [
      f'{differ} of {num} {"pair" if num == 1 else "pairs"} of rows '
      f'{"differs" if differ == 1 else "differ"} in {SCORES[self._score]} (p '
      f"of a paired t-test below {paired.LEVEL}, after Holm's correction)."
    ]
    if most < fewest:
      said.append(
        f'{most} seeds are few: the t-test takes their differences for normal, '
        'and the exact test by flips of signs cannot come below '
        f'{2 / 2**most:g}; from {fewest} seeds on it can come below '
        f'{paired.LEVEL}.'
      )
    if num > MOST_SHOWN:
      said.append(f'Of the pairs, the surest {MOST_SHOWN} are shown.')
    return said

  def _of_budgets(self) -> str:
    parts, apart = [], []
    for key, (name, text) in BUDGETS.items():
      spent: list[Any] = [result.get(key) for result in self._finished]
      if None in spent:
        continue
      low, high = min(spent), max(spent)
      if high - low <= EQUAL * high:
        more = f' ({(high - low) / high:.1%} apart)' if high > low else ''
        parts.append(f'{text(high)} {name}{more}')
      else:
        parts.append(f'{text(low)} to {text(high)} {name}')
        apart.append(name)
    if not parts:
      return ''
    if apart:
      return (
        f'Budgets of the finished runs: {"; ".join(parts)}. They are not equal '
        f'in {" and ".join(apart)}.'
      )
    return f'All finished runs have equal budgets: {"; ".join(parts)}.'

  def _of_types(self) -> str:
    """What machines, or a machine on two days, chose for the same config."""
    names: dict[str, list[str]] = {}
    for result in self._finished:
      if dtype := result.get('chosen_dtype'):
        names.setdefault(dtype, []).append(result['name'])
    if len(names) < 2:
      return ''
    (few, runs), (most, _) = sorted(names.items(), key=lambda x: len(x[1]))
    return (
      f'model.dtype=auto stood for {few} in {len(runs)} of the finished runs '
      f'(first {runs[0]}) and for {most} in the others, so that differences '
      f'may be those of rounding; with --config.model.dtype={most} a sweep '
      'computes in one type.'
    )

  def rows(self) -> list[list[str]]:
    """The cells of the surest pairs."""
    return [_cells(pair) for pair in self.pairs[:MOST_SHOWN]]

  def markdown(self) -> str:
    """Sentences and a table."""
    text = '\n'.join(['', textwrap.fill(' '.join(self.sentences()), 80), ''])
    if self.pairs:
      lines = columns.markdown([list(HEAD), *self.rows()], left=(0,))
      text += '\n'.join(['', *lines, '', textwrap.fill(CAPTION, 80), ''])
    return text

  def html(self) -> Html:
    """Sentences and a table."""
    said = [markup.element('p', sentence) for sentence in self.sentences()]
    if not self.pairs:
      return markup.joined(said)
    return markup.joined([*said, markup.table(HEAD, self.rows(), CAPTION)])

  def numbers(self) -> list[Mapping[str, Any]]:
    """The tests, ready for JSON."""
    return [vars(pair) for pair in self.pairs]


def check_against(against: str | None, groups: Collection[str]) -> None:
  """Raises InputError if there is no row of a name."""
  if against is not None and against not in groups:
    raise table.unknown('row in --against', against, set(groups))


def _cells(pair: paired.Pair) -> list[str]:
  return [
    f'{pair.one} - {pair.other}',
    f'{pair.difference:+.4f}',
    f'{pair.low:+.4f} to {pair.high:+.4f}',
    str(pair.num),
    _p(pair.p),
    _p(pair.holm),
    '-' if pair.flips is None else _p(pair.flips),
  ]


def _p(p: float) -> str:
  """Example: '0.031', '<0.001'."""
  return '<0.001' if p < 0.001 else f'{p:.3f}'
