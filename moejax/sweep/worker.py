"""Trains the runs that a sweep hands it, one after the other.

`moejax.cli.sweep` starts it; it is not for people. One process for many runs
saves the start of Python and JAX, and what they have compiled in common. Each
line of standard input is a job, and each is answered by a line of standard
output:

  {"name": "switch", "config": "configs/zoo.py:switch",
   "overrides": [["seed", "0"]], "folder": "runs/routers/switch"}
  {"code": 0, "message": "", "seconds": 61.2, "total": 9713984,
   "active": 3960128}

All that a run prints, the native code included, goes to the log.txt of its
folder. When standard input is closed (the sweep was stopped, or has died) it
saves what is being trained, as after SIGTERM, and ends.
"""

import contextlib
import gc
import json
import os
import pathlib
import queue
import signal
import sys
import threading
import time
import traceback
from collections.abc import Iterator, Sequence
from typing import Any

import jax

from moejax import config as configs
from moejax.core import command, exits
from moejax.plan import count
from moejax.run import train

LOG = 'log.txt'


def main(argv: Sequence[str]) -> None:
  """Works until standard input is closed."""
  flags = command.parser(__doc__)
  flags.add_argument('--cores', default='', help='to keep to, such as 0,1')
  args, _ = command.parse(flags, argv)
  if args.cores and hasattr(os, 'sched_setaffinity'):
    # Before devices are asked for: XLA makes as many threads as it has cores.
    os.sched_setaffinity(0, {int(core) for core in args.cores.split(',')})
  with os.fdopen(os.dup(sys.stdout.fileno()), 'w') as answers:
    for job in _jobs():
      answers.write(json.dumps(_do(job)) + '\n')
      answers.flush()


def last_line(log: pathlib.Path) -> str:
  """The last line in which there is something; '' if there is none."""
  if not log.exists():
    return ''
  text = log.read_text(encoding='utf-8', errors='replace')
  lines = [line.strip() for line in text.splitlines() if line.strip()]
  return lines[-1] if lines else ''


def _jobs() -> Iterator[dict[str, Any]]:
  """Jobs as they come; SIGTERM for this process if they end during one."""
  waiting: queue.Queue[dict[str, Any] | None] = queue.Queue()
  busy, closed = threading.Event(), threading.Event()

  def read() -> None:
    for line in sys.stdin:
      waiting.put(json.loads(line))
    closed.set()
    if busy.is_set():
      os.kill(os.getpid(), signal.SIGTERM)
    waiting.put(None)

  threading.Thread(target=read, name='moejax-jobs', daemon=True).start()
  while (job := waiting.get()) is not None:
    busy.set()
    if closed.is_set():
      return
    yield job
    busy.clear()


def _do(job: dict[str, Any]) -> dict[str, Any]:
  """Trains, and says how it went."""
  log = pathlib.Path(job['folder']) / LOG
  log.parent.mkdir(parents=True, exist_ok=True)
  begin = time.monotonic()
  found: dict[str, Any] = {}

  def train_one(_: Sequence[str]) -> None:
    config = configs.load(job['config'], job['overrides'], job['folder'])
    counted = count.count(config.model)
    found.update(total=counted.total, active=counted.active)
    train.train(config, job['folder'])

  with _into(log):
    try:
      code = exits.call(train_one, [])
    except Exception:  # noqa: BLE001 (a bug in one run must not end the others)
      traceback.print_exc()
      code = exits.BUG
  # What the next run needs again is on disk; the rest would pile up.
  jax.clear_caches()
  gc.collect()
  message = last_line(log) if code else ''
  seconds = time.monotonic() - begin
  return {'code': code, 'message': message, 'seconds': seconds, **found}


@contextlib.contextmanager
def _into(log: pathlib.Path) -> Iterator[None]:
  """Standard output and error into a file, of the native code as well."""
  with contextlib.ExitStack() as stack:
    file = stack.enter_context(log.open('a', encoding='utf-8'))
    for stream in (sys.stdout, sys.stderr):
      number = stream.fileno()
      kept = os.dup(number)
      stack.callback(os.close, kept)
      stream.flush()
      os.dup2(file.fileno(), number)
      stack.callback(os.dup2, kept, number)
      stack.callback(stream.flush)
    yield


if __name__ == '__main__':
  exits.main(main)
