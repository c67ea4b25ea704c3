"""Work on many items by all processes of a run, each with its share."""

from collections.abc import Callable
from typing import Any, TypeVar

from moejax.core import files
from moejax.parallel import group as groups

T = TypeVar('T')
MOST = 1000  # items in a message, which may have a megabyte


def by_all(group: groups.AnyGroup, name: str) -> files.Spread:
  """A `files.Spread` over the processes of a group, who all have to call it.

  Items and results are as JSON has them. An OSError in one is raised in all.

  Example, 5 items and 2 processes:
    process 0  makes the items, works on 0 2 4
    process 1                   works on 1 3

  Args:
    group: the processes.
    name: of the work.
  """
  if group.count == 1:
    return files.here

  def spread(
    work: Callable[[Any], T], items: Callable[[], list[Any]]
  ) -> list[T]:
    made = items() if group.index == 0 else []
    num = group.told(f'{name}, how many', lambda: len(made))
    found: list[T] = []
    for at in range(0, num, MOST):
      some = group.told(name, lambda at=at: made[at : at + MOST])
      found += _share(group, name, work, some)
    return found

  return spread


def _share(
  group: groups.AnyGroup,
  name: str,
  work: Callable[[Any], T],
  items: list[Any],
) -> list[T]:
  mine: list[T] = []
  problem = None
  try:
    mine = files.here(work, lambda: items[group.index :: group.count])
  except OSError as error:
    problem = [error.errno, error.strerror or str(error)]
  parts = group.gather(f'{name}, done', [mine, problem])
  if problem := next(filter(None, (p for _, p in parts)), None):
    raise OSError(*problem)
  found: list[Any] = [None] * len(items)
  for index, (part, _) in enumerate(parts):
    found[index :: group.count] = part
  return found
