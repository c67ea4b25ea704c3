"""Asked: the items of a benchmark as a model is asked them, with solved rows.

Prompts are made once, by every process alike, before any of them is scored:
which solved rows an item shows depends on the seed and on the item's number in
its split, so it is the same for any number of processes and any `limit`.
"""

import dataclasses
import functools
import hashlib
import json
import random
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence

from moejax.core import errors
from moejax.evals import items as items_lib
from moejax.evals import rows
from moejax.evals.benchmark import (
  Benchmark,
  Choice,
  Cloze,
  Item,
  Prompt,
  Row,
)

# Solved rows of a question: its number, its row, its group -> the rows.
Shots = Callable[[int, Row, str], Sequence[Row]]
# What code of a benchmark raises at a row that is not as it was published.
BAD_ROW = (AttributeError, LookupError, TypeError, ValueError)


@dataclasses.dataclass(frozen=True)
class Asked:
  """The items of a benchmark, with everything that the model reads.

  Attributes:
    name: the benchmark's.
    benchmark: how rows were asked.
    items: items in the order of their rows.
    left_out: number of rows that the benchmark leaves out.
    digest: SHA-256 of all texts and answers. Two results are comparable if
      their digests are equal.
    rows: number of rows that were read, by configuration; '' where there is
      only one.
  """

  name: str
  benchmark: Benchmark
  items: list[Item]
  left_out: int
  digest: str
  rows: Mapping[str, int] = dataclasses.field(default_factory=dict)


def ask(
  name: str, benchmark: Benchmark, data: str, *, limit: int = 0, seed: int = 0
) -> Asked:
  """Makes the items of a benchmark.

  Args:
    name: the benchmark's.
    benchmark: how rows are asked.
    data: 'hub', 'tfds' or a folder; see evals/rows.py.
    limit: rows that are asked, the first ones of each configuration; 0 for all.
    seed: seed of the choice of solved rows.

  Raises:
    InputError: the rows cannot be read, or one of them cannot be asked; the
      message names its place.
  """
  dataset = benchmark.dataset
  read = rows.load(name, dataset, dataset.split, data)
  loaded = _arranged(benchmark, read)
  shots = _shots(name, benchmark, data, loaded, seed)
  asked, left_out, counts = [], 0, defaultdict[str, int](int)
  for index, (where, row) in enumerate(loaded):
    config = str(row.get(rows.CONFIG, ''))
    counts[config] += 1
    if limit and counts[config] > limit:
      continue
    item = _item(benchmark, row, where)
    if item is None:
      left_out += 1
      continue
    solved = shots(index, row, item.group)
    asked.append(items_lib.with_shots(benchmark, row, item, solved))
  if not asked:
    raise errors.InputError(
      f'{name}: all {left_out} rows of split {dataset.split!r} are left out'
    )
  num_rows = Counter(str(row.get(rows.CONFIG, '')) for _, row in read)
  return Asked(name, benchmark, asked, left_out, digest(asked), num_rows)


def digest(asked: Sequence[Item]) -> str:
  """SHA-256 of what a model reads of items, and of their right answers."""
  total = hashlib.sha256()
  for item in asked:
    kept = {
      key: value
      for key, value in vars(item).items()
      if not callable(value)  # judges are code
    }
    # Items without images have the digest of versions that had none.
    if images := kept.pop('images', ()):
      kept['images'] = [picture.digest() for picture in images]
    kept.pop('unit', None)
    total.update(json.dumps(kept, sort_keys=True).encode())
  return total.hexdigest()


def check_item(item: Item, where: str) -> None:
  """Checks what an item does not check itself.

  Raises:
    InputError: there is one option, or a target or a stop string is empty; the
      message names the place.
  """
  problem = ''
  if isinstance(item, Choice) and len(item.options) < 2:
    problem = 'there is one option, so there is nothing to choose'
  elif isinstance(item, Cloze) and not item.target.strip():
    problem = 'the target is empty'
  elif isinstance(item, Prompt) and '' in item.stops:
    problem = 'a stop string is empty: it would end every text at once'
  if problem:
    raise errors.InputError(f'{where}: {problem}')


def _item(benchmark: Benchmark, row: Row, where: str) -> Item | None:
  try:
    item = items_lib.make_item(benchmark, row, where)
  except errors.InputError:
    raise
  except BAD_ROW as e:
    raise _not_asked(where, e) from e
  if item is not None:
    check_item(item, where)
  return item


def _not_asked(where: str, error: Exception) -> errors.InputError:
  if isinstance(error, errors.InputError):
    return errors.InputError(f'{where}: {error}')
  return errors.InputError(
    f'{where}: the row cannot be asked ({type(error).__name__}: {error}); '
    'compare it with the schema that the benchmark names'
  )


def _arranged(
  benchmark: Benchmark, entries: Sequence[rows.Entry]
) -> list[rows.Entry]:
  """The rows after `benchmark.arrange`, with their places where they have one.

  A benchmark that makes another number of rows loses their places.

  Raises:
    InputError: a row cannot be arranged; the message names its place.
  """
  try:
    arranged = benchmark.arrange([row for _, row in entries])
  except BAD_ROW as e:
    raise _first_bad(benchmark, entries, e) from e
  if len(arranged) == len(entries):
    places = [where for where, _ in entries]
  else:
    first = entries[0].where.rpartition(':')[0] or entries[0].where
    places = [f'{first} (arranged, {i})' for i in range(1, len(arranged) + 1)]
  return [
    rows.Entry(where, row) for where, row in zip(places, arranged, strict=True)
  ]


def _first_bad(
  benchmark: Benchmark, entries: Sequence[rows.Entry], error: Exception
) -> errors.InputError:
  """The error of the first row that cannot be arranged even by itself."""
  for where, row in entries:
    try:
      benchmark.arrange([row])
    except BAD_ROW as e:
      return _not_asked(where, e)
  return _not_asked(f'{entries[0].where} and the rows after it', error)


# Solved rows


def _shots(
  name: str,
  benchmark: Benchmark,
  data: str,
  questions: Sequence[rows.Entry],
  seed: int,
) -> Shots:
  if not benchmark.shots:
    return lambda *_: ()
  dataset = benchmark.dataset
  split = dataset.shots_split or dataset.split
  same = split == dataset.split
  pool = questions
  if not same:
    pool = _arranged(benchmark, rows.load(name, dataset, split, data))
  groups = _groups(benchmark, pool)
  check_shown = _check_of_shown(benchmark, pool)

  @functools.cache
  def same_for_all(group: str) -> Sequence[Row]:
    return _chosen(benchmark, groups.get(group, []), '')

  def choose(index: int, row: Row, group: str) -> Sequence[Row]:
    group = group if benchmark.shots_by_group else ''
    if same:
      # A question is never shown solved before itself.
      able = [r for r in groups.get(group, []) if r is not row and r != row]
      chosen = _chosen(benchmark, able, f'{seed}/{name}/{index}')
    elif benchmark.first or benchmark.fixed is not None:
      chosen = same_for_all(group)
    else:
      able = groups.get(group, [])
      chosen = _chosen(benchmark, able, f'{seed}/{name}/{index}')
    if len(chosen) < benchmark.shots:
      of_group = f' of {group!r}' if group else ''
      raise errors.InputError(
        f'{name} shows {benchmark.shots} solved rows, but split {split!r}'
        f'{of_group} has {len(chosen)}'
      )
    check_shown(chosen)
    return chosen

  return choose


def _check_of_shown(
  benchmark: Benchmark, pool: Sequence[rows.Entry]
) -> Callable[[Sequence[Row]], None]:
  """A check that rows can be shown solved; each row is tried once.

  It raises an InputError that names the place of a row that cannot.
  """
  places = {id(row): where for where, row in pool}

  def check(chosen: Sequence[Row]) -> None:
    for row in chosen:
      where = places.pop(id(row), None)
      if where is None or benchmark.show is None:
        continue
      try:
        benchmark.show(row)
      except BAD_ROW as e:
        raise _not_asked(where, e) from e

  return check


def _chosen(
  benchmark: Benchmark, able: Sequence[Row], key: str
) -> Sequence[Row]:
  """The solved rows among those that may be shown."""
  if benchmark.fixed is not None:
    return benchmark.fixed(able)
  if benchmark.first:
    return able[: benchmark.shots]
  return draw(able, benchmark.shots, key)


def _groups(
  benchmark: Benchmark, pool: Sequence[rows.Entry]
) -> Mapping[str, list[Row]]:
  """Rows by the group of their items, or all of them under ''."""
  if not benchmark.shots_by_group:
    return {'': [row for _, row in pool]}
  groups = defaultdict(list)
  for where, row in pool:
    item = _item(benchmark, row, where)
    if item is not None:
      groups[item.group].append(row)
  return groups


def draw(pool: Sequence[Row], count: int, key: str) -> list[Row]:
  """Some different rows, drawn by a stream of their own.

  The stream is `random.Random(key).random()`, which Python promises to keep.

  Args:
    pool: rows.
    count: how many are drawn; all in a drawn order if there are fewer.
    key: seed of the stream.
  """
  stream = random.Random(key)
  # The first steps of a Fisher-Yates shuffle, with only its changes kept.
  moved: dict[int, int] = {}
  drawn = []
  for step in range(min(count, len(pool))):
    at = step + int(stream.random() * (len(pool) - step))
    drawn.append(pool[moved.get(at, at)])
    moved[at] = moved.get(step, step)
  return drawn
