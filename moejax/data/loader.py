"""Batches as a pure function of (seed, step).

The step alone is the position of a run in its data. So nothing about it needs
saving, any step can be read directly, and any number of hosts can each read its
share of the same batch.
"""

import dataclasses
import queue
import threading
from collections.abc import Generator, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from moejax.core import errors
from moejax.data import batch as batch_lib
from moejax.data import cache, features, shuffle
from moejax.data.images import rows as image_rows

BLOCK = 1024
# Rows of a batch that a process reads, as a numpy index; None means all.
Rows = slice | np.ndarray | None


class Loader:
  """Mixes domains by their rates, each epoch of a domain in a new order.

  The rows of all batches form one endless sequence of places; batch `step` has
  places step * B to (step + 1) * B - 1. The stages from a place to a row:
    1. Domain. In every block of 1024 places each domain occurs as often as its
       rate says (rounded to 1/1024, at least once unless the rate is 0), in an
       order shuffled for that block.
    2. Draw. The number n of earlier places of the same domain makes this draw n
       from it, which is row number n % N of epoch n // N, N being its rows.
    3. Row. A permutation of the N rows, another one for every epoch, maps that
       number to a row. So every row occurs exactly once in every epoch.

  Args:
    readers: the rows of each domain, all of one length.
    rates: sampling rate of each domain, relative to the others.
    batch_size: B, rows of a step over all hosts.
    seed: determines the order.

  Raises:
    InputError: a domain without rows, a rate that is negative, or rates that
      are all 0.

  Attributes:
    domains: names of the domains.
    batch_size: B.
    seed: as above.
    length: L, the tokens of a row.
    quota_D: places of each domain in a block of 1024.
  """

  def __init__(
    self,
    readers: Mapping[str, cache.RowReader],
    rates: Sequence[float],
    batch_size: int,
    seed: int,
  ):
    _check(readers, rates, batch_size)
    self.domains = tuple(readers)
    self.batch_size = batch_size
    self.seed = seed
    self._readers = tuple(readers.values())
    self.length = self._readers[0].length
    self.quota_D = _quotas(np.asarray(rates, float))

  def batch(self, step: int, rows: Rows = None) -> batch_lib.Batch:
    """Batch number `step`, or some of its rows.

    Args:
      step: from 0; there is no last one.
      rows: those of the B rows that this host reads; None means all.
    """
    place_B = step * self.batch_size + _wanted(self.batch_size, rows)
    domain_B, row_B = self.locate(place_B)
    target_BL = np.zeros((len(place_B), self.length), np.int32)
    segment_BL = np.zeros_like(target_BL)
    first_B1 = np.zeros((len(place_B), 1), np.int32)
    for domain in np.unique(domain_B):
      here_B = domain_B == domain
      packed = self._readers[domain].rows(row_B[here_B])
      target_BL[here_B], segment_BL[here_B] = packed
      # Conversations begin with another id than texts.
      first_B1[here_B] = self._readers[domain].first_id
    batch = features.expand(target_BL, segment_BL, first_B1)
    images = image_rows.of(self._readers, domain_B, row_B, segment_BL)
    return dataclasses.replace(batch, images=images)

  def locate(self, place_N: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The number of the domain, and the row in it, of each place."""
    domain_N = np.zeros(len(place_N), np.int64)
    draw_N = np.zeros(len(place_N), np.int64)
    block_N, slot_N = np.divmod(place_N, BLOCK)
    for block in np.unique(block_N):
      here_N = block_N == block
      domain_S, rank_S = self.block(int(block))
      slot_M = slot_N[here_N]
      domain_N[here_N] = domain_S[slot_M]
      draw_N[here_N] = block * self.quota_D[domain_S[slot_M]] + rank_S[slot_M]
    row_N = np.zeros(len(place_N), np.int64)
    for domain in np.unique(domain_N):
      here_N = domain_N == domain
      size = self._readers[domain].num_rows
      epoch_M, number_M = np.divmod(draw_N[here_N], size)
      key_M = shuffle.key(self.seed, 1, int(domain), epoch_M)
      row_N[here_N] = shuffle.permute(number_M, size, key_M)
    return domain_N, row_N

  def rows_of(self, step: int) -> dict[str, list[int]]:
    """The rows of batch number `step`, by domain.

    Example: {'code': [17, 4], 'news': [311]}
    """
    place_B = step * self.batch_size + np.arange(self.batch_size)
    by_domain: dict[str, list[int]] = {}
    for domain, row in zip(*self.locate(place_B), strict=True):
      by_domain.setdefault(self.domains[domain], []).append(int(row))
    return by_domain

  def block(self, block: int) -> tuple[np.ndarray, np.ndarray]:
    """Each slot's domain, and its rank among the domain's slots."""
    sorted_S = np.repeat(np.arange(len(self.quota_D)), self.quota_D)
    domain_S = sorted_S[shuffle.order(BLOCK, shuffle.key(self.seed, 0, block))]
    by_domain_S = np.argsort(domain_S, kind='stable')
    first_D = np.cumsum(self.quota_D) - self.quota_D
    rank_S = np.empty(BLOCK, np.int64)
    rank_S[by_domain_S] = np.arange(BLOCK) - first_D[sorted_S]
    return domain_S, rank_S

  def iterate(
    self, start_step: int, rows: Rows = None, depth: int = 2
  ) -> Generator[batch_lib.Batch]:
    """The batches from a step on, read ahead by a thread.

    The caller counts the steps, so reading ahead changes no state. An error in
    the thread is raised at the batch that it belongs to. Closing or dropping
    the iterator ends the thread.

    Args:
      start_step: step of the first batch.
      rows: as in `batch`.
      depth: batches that are kept ready.
    """
    ready: queue.Queue[tuple[Any, Exception | None]] = queue.Queue(
      max(1, depth)
    )
    stop = threading.Event()
    thread = threading.Thread(
      target=self._fill,
      args=(ready, stop, start_step, rows),
      name='moejax-data',
      daemon=True,
    )
    thread.start()
    try:
      while True:
        batch, error = ready.get()
        if error is not None:
          raise error
        yield batch
    finally:
      stop.set()
      while not ready.empty():  # the thread may wait for room
        ready.get_nowait()
      thread.join()

  def _fill(
    self,
    ready: queue.Queue,
    stop: threading.Event,
    step: int,
    rows: Rows,
  ) -> None:
    while not stop.is_set():
      item: tuple[batch_lib.Batch | None, Exception | None]
      try:
        item = self.batch(step, rows), None
      except Exception as e:  # noqa: BLE001 (it is raised in the consumer)
        item = None, e
        stop.set()
      ready.put(item)
      step += 1


def _check(
  readers: Mapping[str, cache.RowReader],
  rates: Sequence[float],
  batch_size: int,
) -> None:
  if batch_size < 1:
    raise errors.InputError(f'batch_size={batch_size}: must be 1 or more')
  for (name, reader), rate in zip(readers.items(), rates, strict=True):
    if not 0 <= rate < np.inf:
      raise errors.InputError(
        f'domain {name!r} has rate {rate}: it must be at least 0'
      )
    if rate and reader.num_rows == 0:
      raise errors.InputError(f'domain {name!r} has no rows to train on')
  if not sum(rates) > 0:
    raise errors.InputError(
      f'the rates of {", ".join(readers)} are all 0: give one of them a rate '
      'above 0, or there is nothing to train on'
    )


def _quotas(rate_D: np.ndarray) -> np.ndarray:
  """The number of a block's slots that each domain gets, at least one.

  After one slot for each, the rest is shared by largest remainders. A domain of
  rate 0 gets none.

  Example:
    [2.0, 1.0]       [683, 341]
    [2.0, 0.0, 1.0]  [683, 0, 341]
  """
  if not rate_D.all():
    quota_D = np.zeros(len(rate_D), np.int64)
    quota_D[rate_D > 0] = _quotas(rate_D[rate_D > 0])
    return quota_D
  free = BLOCK - len(rate_D)
  if free < 0:
    raise errors.InputError(f'{len(rate_D)} domains: at most {BLOCK} are mixed')
  exact_D = np.maximum(rate_D / rate_D.sum() * BLOCK - 1, 0)
  exact_D *= free / max(float(exact_D.sum()), 1e-9)
  quota_D = np.floor(exact_D).astype(np.int64)
  left = free - quota_D.sum()
  quota_D[np.argsort(quota_D - exact_D, kind='stable')[:left]] += 1
  return quota_D + 1


def _wanted(batch_size: int, rows: Rows) -> np.ndarray:
  """The numbers of the rows of a batch that are to be read."""
  return np.arange(batch_size)[slice(None) if rows is None else rows]


def eval_batch(
  reader: cache.RowReader,
  step: int,
  batch_size: int,
  rows: Rows = None,
) -> batch_lib.Batch:
  """Rows step * B to (step + 1) * B - 1 in order; beyond the last, empty rows.

  Empty rows have weight 0. So all batches have the same shape, and sums over
  them count every row once.
  """
  index_B = step * batch_size + _wanted(batch_size, rows)
  exists_B = index_B < reader.num_rows
  target_BL = np.zeros((len(index_B), reader.length), np.int32)
  segment_BL = np.zeros_like(target_BL)
  packed = reader.rows(index_B[exists_B])
  target_BL[exists_B], segment_BL[exists_B] = packed
  batch = features.expand(target_BL, segment_BL, reader.first_id)
  none_B = np.where(exists_B, 0, -1)  # of no text
  row_B = np.where(exists_B, index_B, 0)
  images = image_rows.of([reader], none_B, row_B, segment_BL)
  return dataclasses.replace(batch, images=images)


def eval_batches(
  reader: cache.RowReader, batch_size: int, rows: Rows = None
) -> Iterator[batch_lib.Batch]:
  """All rows once, in order, batch by batch; see `eval_batch`."""
  for step in range(-(-reader.num_rows // batch_size)):
    yield eval_batch(reader, step, batch_size, rows)
