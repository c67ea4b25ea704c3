"""What a run of one process has in place of a `group.Group`."""

from collections.abc import Callable
from typing import Any, TypeVar

T = TypeVar('T')


class Alone:
  """The only process of a run: nothing to wait for."""

  index, count = 0, 1

  def first(self, name: str, work: Callable[[], T]) -> T:
    """What `work` returns."""
    del name
    return work()

  def told(self, name: str, work: Callable[[], T]) -> T:
    """What `work` returns."""
    del name
    return work()

  def gather(self, name: str, mine: Any) -> list[Any]:
    """What it is given, alone in a list."""
    del name
    return [mine]

  def barrier(self, name: str, deadline_s: float | None = None) -> None:
    """Returns."""

  def agree(self, flag: str | None, step: int) -> str | None:
    """The flag."""
    del step
    return flag


ALONE = Alone()
