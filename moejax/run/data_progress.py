"""Lines of progress while text is packed, which happens once for each text."""

from collections.abc import Callable

from moejax.data.cache_writer import Progress


def lines(say: Callable[[str], None]) -> Callable[[Progress], None]:
  """A callback for `data.build` that says when a text begins, and its notes."""
  begun: set[str] = set()

  def report(progress: Progress) -> None:
    if progress.note:
      say(f'{progress.name}: {progress.note}')
    elif not progress.done and progress.name not in begun:
      begun.add(progress.name)
      say(f'Packing {progress.name} (once, for all runs) ...')

  return report
