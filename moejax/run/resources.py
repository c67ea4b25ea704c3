"""What a training run holds open: writers, checkpoints, signals, a watchdog."""

import contextlib
import dataclasses
import os
import secrets
import sys
from collections.abc import Iterator

import jax
from etils import epath

from moejax.core import exits, files, log
from moejax.run import restore
from moejax.run.context import Context
from moejax.run.screen import Screen
from moejax.train import bad_steps, checkpoint, goodput, signals, tiers
from moejax.train.watchdog import Watchdog

METRICS = 'metrics.jsonl'
# Names the run on the fast disk: a new run in a workdir of the same name must
# not go on from an old one's checkpoints.
NEAR = 'local_checkpoints.txt'


@dataclasses.dataclass(frozen=True)
class Resources:
  """All that is open while a run trains; see `open_resources`."""

  folder: epath.Path
  screen: Screen
  spent: goodput.Goodput
  checkpoints: tiers.Tiers
  writer: log.Writer
  bad_steps: log.Writer
  stop: signals.StopSignal
  watchdog: Watchdog

  def go_on_from(self, step: int) -> None:
    """Forgets what was written for later steps, but not the time it took."""
    path = self.folder / METRICS
    self.spent.resume(step, log.read(path) if path.exists() else ())
    self.writer.truncate_after(step)
    self.bad_steps.truncate_after(step)


@contextlib.contextmanager
def open_resources(
  context: Context, folder: epath.Path, screen: Screen, spent: goodput.Goodput
) -> Iterator[Resources]:
  """Opens all of it, and closes all of it whatever happens.

  Nothing is read or written yet.
  """
  config = context.run.train
  with contextlib.ExitStack() as stack:
    stop = stack.enter_context(signals.StopSignal())
    durable = stack.enter_context(
      checkpoint.Checkpointer(
        folder / restore.CHECKPOINTS,
        keep=config.keep_checkpoints,
        group=context.processes.group,
        warn=screen.line,
      )
    )
    near = _near(context, folder, screen)
    if near is not None:
      stack.enter_context(near)
    writer = stack.enter_context(contextlib.closing(log.open_writers(folder)))
    bad = stack.enter_context(contextlib.closing(_bad_steps(folder)))
    yield Resources(
      folder=folder,
      screen=screen,
      spent=spent,
      checkpoints=tiers.Tiers(
        durable, near, screen.line, context.processes.group
      ),
      writer=writer,
      bad_steps=bad,
      stop=stop,
      watchdog=Watchdog(
        config.watchdog_s, _say, _leave if config.watchdog_exits else None
      ),
    )


def _bad_steps(folder: epath.Path) -> log.Writer:
  if jax.process_index() != 0:
    return log.MultiWriter([])
  return log.JsonlWriter(folder / bad_steps.FILE)


def _near(
  context: Context, folder: epath.Path, screen: Screen
) -> checkpoint.Checkpointer | None:
  """This process's checkpoints on the fast disk, if the config has one."""
  place = context.run.train.local_checkpoints
  if not place:
    return None
  group = context.processes.group
  files.check_writable(place, 'train.local_checkpoints')
  token = group.broadcast(NEAR, lambda: _token(folder / NEAR))
  warn = screen.line
  if group.index:
    warn = lambda text: _say(f'process {group.index}: {text}\n')
  mine = epath.Path(place) / f'{folder.name}-{token}' / f'process_{group.index}'
  # Of several processes, one may have completed its newest and another not yet.
  keep = 1 if group.count == 1 else 2
  return checkpoint.Checkpointer(
    mine, keep=keep, keep_best=False, own=True, warn=warn
  )


def _token(path: epath.Path) -> str:
  if not path.exists():
    files.atomic_write_text(path, secrets.token_hex(8) + '\n')
  return path.read_text().strip()


def _say(text: str) -> None:
  sys.stderr.write(text)
  sys.stderr.flush()


def _leave() -> None:
  # Not sys.exit: the thread that hangs would never hear of it.
  os._exit(exits.STUCK)
