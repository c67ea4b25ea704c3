"""How often each source is read: rates, limits, and counts by step.

All of it is a pure function of the config, the sizes of the sources and the
step. So a resumed run counts as if it had never stopped, and a source that is
used up too early is found before the first step.
"""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from moejax.core import errors
from moejax.data import cache, loader
from moejax.data.sources import Source


def rates(
  listed: Sequence[Source],
  num_tokens: Sequence[int],
  temperature: float | None = None,
) -> list[float]:
  """The sampling rate of each source, relative to the others.

  A source has its token budget as rate, if budgets are given. Otherwise it has
  its `rate`, times n ** (1 / temperature) with its n training tokens if a
  temperature is given (Devlin et al., 2018, multilingual BERT; Raffel et al.,
  2020, T5, section 3.5.2). Temperature 1 mixes in proportion to size, and a
  high one equally.

  Example, sizes 100 and 10,000:
    temperature none  [1, 1]
    temperature 1     [100, 10000]
    temperature 2     [10, 100]

  Args:
    listed: the sources.
    num_tokens: n of each.
    temperature: see above.
  """
  if any(source.tokens for source in listed):
    return [source.tokens if source.rate else 0.0 for source in listed]
  if temperature is None:
    return [source.rate for source in listed]
  # The largest source has factor 1, so that no power overflows.
  largest = max(1, *num_tokens)
  return [
    source.rate * float(n / largest) ** (1 / temperature)
    for source, n in zip(listed, num_tokens, strict=True)
  ]


def rounded(
  listed: Sequence[Source],
  rates: Sequence[float],
  quota_D: np.ndarray,
) -> dict[str, str]:
  """By name of a source, a line where rounding changes its rate by a tenth.

  Args:
    listed: the sources.
    rates: of each, relative to the others.
    quota_D: rows of each in a block of BLOCK rows.
  """
  lines, total = {}, sum(rates)
  for source, rate, quota in zip(listed, rates, quota_D, strict=True):
    share = rate / total
    if rate and abs(quota / loader.BLOCK / share - 1) > 0.1:
      lines[source.name] = (
        f'{source.place} is read as {quota} of every {loader.BLOCK:,} rows: '
        f'its share of all rates, {share:.2g}, is rounded to 1/{loader.BLOCK}'
      )
  return lines


def rows_before(train: loader.Loader, step: int) -> np.ndarray:
  """Rows of each domain in batches 0 to step - 1, as int64 [D]."""
  places = step * train.batch_size
  block, rest = divmod(places, loader.BLOCK)
  domain_S, _ = train.block(block)
  in_block_D = np.bincount(domain_S[:rest], minlength=len(train.quota_D))
  return block * train.quota_D + in_block_D


def steps_within(train: loader.Loader, domain: int, num_rows: int) -> int:
  """Number of batches, from batch 0 on, that read so many rows of a domain.

  The batch after them reads one row more.

  Args:
    train: the loader.
    domain: number of the domain; its rate is above 0.
    num_rows: rows that may be read.
  """
  block, rank = divmod(num_rows, int(train.quota_D[domain]))
  domain_S, rank_S = train.block(block)
  (slot,) = np.flatnonzero((domain_S == domain) & (rank_S == rank))
  return (block * loader.BLOCK + int(slot)) // train.batch_size


@dataclasses.dataclass(frozen=True)
class Counts:
  """Tokens that a run has read from each source, by step.

  Attributes:
    train: batches by step.
    readers: the rows of each domain.
  """

  train: loader.Loader
  readers: Mapping[str, cache.RowReader]

  def tokens(self, step: int) -> dict[str, int]:
    """Tokens of each source in the first `step` batches, without padding.

    Within an epoch each row counts with the mean tokens of the source's rows.
    The number is exact after whole epochs, and where no row has padding.
    """
    rows_D = rows_before(self.train, step)
    return {
      name: _tokens(int(rows), reader)
      for rows, (name, reader) in zip(rows_D, self.readers.items(), strict=True)
    }

  def epochs(self, step: int) -> dict[str, float]:
    """How often each row of each source has been read, on average."""
    rows_D = rows_before(self.train, step)
    return {
      name: int(rows) / max(1, reader.num_rows)
      for rows, (name, reader) in zip(rows_D, self.readers.items(), strict=True)
    }


def _tokens(rows: int, reader: cache.RowReader) -> int:
  epochs, rest = divmod(rows, max(1, reader.num_rows))
  # Integers of Python: the product is larger than 64 bits for long texts.
  return epochs * reader.num_tokens + (
    rest * reader.num_tokens // max(1, reader.num_rows)
  )


def check(
  listed: Sequence[Source], train: loader.Loader, counts: Counts, steps: int
) -> None:
  """Raises InputError if a source is used up before the run ends.

  Args:
    listed: the sources, in the order of the loader's domains.
    train: batches by step.
    counts: tokens by step.
    steps: number of steps of the run.
  """
  for domain, source in enumerate(listed):
    if not source.max_epochs or not train.quota_D[domain]:
      continue
    reader = counts.readers[source.name]
    num_rows = int(source.max_epochs * reader.num_rows + 1e-9)
    last = steps_within(train, domain, num_rows)
    if last < steps:
      needed = counts.epochs(steps)[source.name]
      raise errors.InputError(
        f'{source.place} is used up after step {last} of {steps}: its '
        f'{reader.num_tokens:,} tokens are read '
        f'max_epochs={source.max_epochs:g} times; set '
        f'{source.place}.max_epochs={_up(needed):g} or more (0: repeated '
        'without limit), a lower rate, or fewer train.steps'
      )
  budget = sum(source.tokens for source in listed if source.rate)
  total = steps * train.batch_size * train.length
  step = train.batch_size * train.length
  if budget and total > budget + step:
    raise errors.InputError(
      f'the token budgets of data.sources are used up after step '
      f'{int(budget) // step:,} of {steps:,}: they sum to {budget:,.0f} '
      f'tokens, and the run reads {total:,}; raise data.sources.*.tokens, or '
      f'set train.steps={int(budget) // step}'
    )


def _up(epochs: float) -> float:
  """A number of epochs rounded up to two decimals."""
  return np.ceil(epochs * 100) / 100
