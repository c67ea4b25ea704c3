"""Writers, checkpoints, signal handlers and the watchdog of a training run.

All of them are opened and closed together.
"""

import contextlib
import dataclasses
import os
import secrets
import sys
from collections.abc import Iterator

import jax
from etils import epath

from moejax.core import config_tree, exits, files, log, terminal
from moejax.run import restore
from moejax.run.context import Context
from moejax.run.screen import Screen
from moejax.train import (
  bad_steps,
  checkpoint,
  goodput,
  loggers,
  profile,
  run_checkpoints,
  signals,
  tiers,
)
from moejax.train.watchdog import Watchdog

METRICS = log.METRICS
# File with a random token, which is part of the name of the run's folder on the
# fast disk (train.local_checkpoints): a new run in a workdir of the same name
# must not go on from an old one's checkpoints.
NEAR = 'local_checkpoints.txt'


@dataclasses.dataclass(frozen=True)
class Resources:
  """What is open while a run trains; made by `open_resources`.

  Attributes:
    folder: workdir of the run.
    screen: shows progress.
    spent: seconds of the run by what they went into.
    checkpoints: those in the workdir, kept ones too, and on the fast disk.
    writer: the loggers of the config.
    bad_steps: bad_steps.jsonl.
    stop: whether a signal asks the run to stop.
    watchdog: says when no step ends for long.
    profiler: profiles the steps that the config names.
  """

  folder: epath.Path
  screen: Screen
  spent: goodput.Goodput
  checkpoints: tiers.Tiers
  writer: log.Writer
  bad_steps: log.Writer
  stop: signals.StopSignal
  watchdog: Watchdog
  profiler: profile.Profiler

  def go_on_from(self, step: int) -> None:
    """Removes records and kept weights of later steps.

    The time that these steps took still counts.
    """
    path = self.folder / METRICS
    self.spent.resume(step, log.read(path) if path.exists() else ())
    self.writer.truncate_after(step)
    self.bad_steps.truncate_after(step)
    self.checkpoints.forget_kept_after(step)


@contextlib.contextmanager
def open_resources(
  context: Context, folder: epath.Path, screen: Screen, spent: goodput.Goodput
) -> Iterator[Resources]:
  """Opens the resources, and closes them also after an error.

  No checkpoint is read, and nothing is written yet.
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
    kept = stack.enter_context(
      checkpoint.Checkpointer(
        folder / run_checkpoints.KEPT,
        keep=None,
        keep_best=False,
        group=context.processes.group,
        warn=screen.line,
      )
    )
    near = _near(context, folder, screen)
    if near is not None:
      stack.enter_context(near)
    place = loggers.Place(
      folder,
      config.steps,
      config_tree.to_dict(context.run),
      config_tree.flatten(context.run),
      screen.line,
    )
    writers = loggers.open_writers(config.loggers, place)
    writer = stack.enter_context(contextlib.closing(writers))
    bad = stack.enter_context(contextlib.closing(_bad_steps(folder)))
    profiler = profile.Profiler(
      config.profile if jax.process_index() == 0 else profile.Profile(),
      folder,
      screen.line,
      config.steps,
    )
    stack.callback(profiler.close)
    yield Resources(
      folder=folder,
      screen=screen,
      spent=spent,
      checkpoints=tiers.Tiers(
        durable, near, screen.line, context.processes.group, kept
      ),
      writer=writer,
      bad_steps=bad,
      stop=stop,
      watchdog=Watchdog(
        config.watchdog_s, _say, _leave if config.watchdog_exits else None
      ),
      profiler=profiler,
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
  run_folder = epath.Path(place) / f'{folder.name}-{token}'
  own = run_folder / f'process_{group.index}'
  # With several processes, one may have completed the newest checkpoint while
  # another has not, so the one before it is kept too.
  keep = 1 if group.count == 1 else 2
  return checkpoint.Checkpointer(
    own, keep=keep, keep_best=False, own=True, warn=warn
  )


def _token(path: epath.Path) -> str:
  """The token of a file, which is made with a new one if it does not exist."""
  if not path.exists():
    files.atomic_write_text(path, secrets.token_hex(8) + '\n')
  return path.read_text().strip()


def _say(text: str) -> None:
  with terminal.outlived():
    sys.stderr.write(text)
    sys.stderr.flush()


def _leave() -> None:
  # Not sys.exit, which would end the watchdog's thread and not the hanging one.
  os._exit(exits.STUCK)
