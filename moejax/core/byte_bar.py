"""A progress bar over bytes."""

import contextlib
from collections.abc import Callable, Iterator

import rich.progress

from moejax.core.console import Console


@contextlib.contextmanager
def byte_bar(text: str, total: int) -> Iterator[Callable[[int], None]]:
  """Shows a progress bar on stderr while the block runs, if it is a terminal.

  Args:
    text: description to the left of the bar.
    total: number of bytes in all.

  Yields:
    A function that advances the bar by a number of bytes.
  """
  console = Console(stderr=True)
  with rich.progress.Progress(
    rich.progress.TextColumn(text),
    rich.progress.BarColumn(),
    rich.progress.DownloadColumn(),
    rich.progress.TransferSpeedColumn(),
    console=console,
    disable=not console.is_terminal,
  ) as bar:
    task = bar.add_task(text, total=total)
    yield lambda num_bytes: bar.advance(task, num_bytes)
