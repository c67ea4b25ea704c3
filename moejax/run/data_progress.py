"""Lines about text that is being packed, which happens once for each text."""

from collections.abc import Callable

from moejax.data.cache_writer import Progress
from moejax.run.screen import Screen


def lines(screen: Screen) -> Callable[[Progress], None]:
  """A callback for `data.build`: a line when a text begins, and notes."""
  begun: set[str] = set()

  def report(progress: Progress) -> None:
    if progress.note:
      screen.line(f'{progress.name}: {progress.note}')
    elif not progress.done and progress.name not in begun:
      begun.add(progress.name)
      screen.line(f'Packing {progress.name} (once, for all runs) ...')

  return report
