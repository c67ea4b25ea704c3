"""A progress bar over bytes."""

import contextlib
import sys
from collections.abc import Callable, Iterator

import rich.console
import rich.progress


@contextlib.contextmanager
def byte_bar(text: str, total: int) -> Iterator[Callable[[int], None]]:
  """A bar on stderr, if that is a terminal; call it with bytes just done."""
  console = rich.console.Console(file=sys.stderr)
  with rich.progress.Progress(
    rich.progress.TextColumn(text),
    rich.progress.BarColumn(),
    rich.progress.DownloadColumn(),
    rich.progress.TransferSpeedColumn(),
    console=console,
    disable=not console.is_terminal,
  ) as bar:
    task = bar.add_task(text, total=total)
    yield lambda done: bar.advance(task, done)
