"""Lines on the text of a run: while it is packed, and how often it is read."""

from collections.abc import Callable, Mapping

from moejax.data.build import Data
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


def say_epochs(data: Data, steps: int, say: Callable[[str], None]) -> None:
  """Says how often a run reads its text, if that is more than once."""
  epochs = data.counts.epochs(steps)
  if data.vocab is not None and max(epochs.values()) > 1:
    say(epochs_line(epochs))


def epochs_line(epochs: Mapping[str, float]) -> str:
  """A line on a text that is read more than once.

  Args:
    epochs: by name of a source, how often each of its rows is read.

  Example, of one source and of several:
    The run reads each row of files 2.4 times.
    The run reads rows of some sources more than once: a 3.0, b 1.2 times.
  """
  often = [f'{name} {n:.1f}' for name, n in epochs.items() if n > 1]
  if len(epochs) == 1:
    (name,), (times,) = epochs, epochs.values()
    return f'The run reads each row of {name} {times:.1f} times.'
  listed = ', '.join(often[:8]) + (', ...' if len(often) > 8 else '')
  return f'The run reads rows of some sources more than once: {listed} times.'
