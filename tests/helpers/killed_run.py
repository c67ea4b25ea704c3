"""Real training processes that kill themselves at a named place.

Run as a script it reads lines of JSON from standard input and forks a process
for each, so that imports are paid once. In one line:

  {"command": "train", "flags": [...], "place": ["step", 3], "devices": 1,
   "log": "/a/file", "jax": {}}

It answers with the process's id, and when that has ended with how. A process
runs a real command; `place` (or null) is where it sends itself SIGKILL (or
hangs), the n-th time that it comes there. The product knows nothing of this:
functions are replaced in the forked process.
"""

import functools
import json
import os
import signal
import sys
import time

import jax
from jax._src import lru_cache

from moejax import main
from moejax.cli import convert
from moejax.convert import staging, tensor_files
from moejax.core import exits, log, manifest
from moejax.data import build, cache_writer
from moejax.evals import perplexity
from moejax.moe import self_check
from moejax.run import report
from moejax.train import (
  checkpoint,
  checkpoint_folder,
  loop,
  state_files,
  step,
)


def die(*_):
  os.kill(os.getpid(), signal.SIGKILL)


def _nth(number, act):
  """Calls `act` at the n-th call."""
  left = [number]

  def count(*args):
    left[0] -= 1
    if left[0] == 0:
      act(*args)

  return count


def before(owner, name, number, act=die):
  """Before the n-th call of a function."""
  inner, count = getattr(owner, name), _nth(number, act)

  @functools.wraps(inner)
  def wrapped(*args, **options):
    count(*args)
    return inner(*args, **options)

  setattr(owner, name, wrapped)


def after(owner, name, number, act=die):
  """After the n-th call of a function."""
  inner, count = getattr(owner, name), _nth(number, act)

  @functools.wraps(inner)
  def wrapped(*args, **options):
    result = inner(*args, **options)
    count(*args)
    return result

  setattr(owner, name, wrapped)


def hang_here():
  time.sleep(60)


def within_step(number, act=die):
  """When the n-th step of this process was dispatched, and computes."""
  make = step.make

  def made(*args, **options):
    run, count = make(*args, **options), _nth(number, act)

    def one(*inputs):
      result = run(*inputs)
      count()
      return result

    return one

  step.make = made


def within_step_all_saved(number):
  """As `within_step`, when no checkpoint is still being written beside it."""
  save, savers = checkpoint.Checkpointer.save, []

  def remembered(saver, *args):
    savers.append(saver)
    save(saver, *args)

  def act():
    for saver in savers:
      saver.wait()
    die()

  checkpoint.Checkpointer.save = remembered
  within_step(number, act)


def torn_line(number):
  """When half of the n-th line of metrics.jsonl is written."""
  inner, write = log.JsonlWriter.write, _nth(number, lambda f: _half(f, die))

  def _half(writer, then):
    with open(writer._path, 'a') as f:
      f.write('{"step": 3, "loss": 0.')
    then()

  def wrapped(writer, at, values):
    write(writer)
    inner(writer, at, values)

  log.JsonlWriter.write = wrapped


def torn_program(number):
  """When half of the n-th compiled program is written."""

  def half(cache, key, value):
    path = cache.path / f'{key}-cache'
    path.write_bytes(value[: len(value) // 2])
    die()

  before(lru_cache.LRUCache, 'put', number, half)


def reading_tensors(number):
  """Before the n-th tensor of a checkpoint; those of 10 kB are entered."""
  staging.EVERY = 10_000
  before(tensor_files.StoredTensor, 'read', number)


COMMANDS = {'train': main.main, 'convert': convert.main}
FOLDER = checkpoint_folder.CheckpointFolder
WRITER = cache_writer._Writer
PLACES = {
  # start-up
  'opening the text': functools.partial(before, build, 'build'),
  'checking the experts': functools.partial(before, self_check, 'run'),
  'compiling': torn_program,
  # the data cache
  'packing': functools.partial(before, WRITER, '_shard'),
  'packed': functools.partial(after, WRITER, '_shard'),
  'naming the cache': functools.partial(before, WRITER, '_meta'),
  # a step
  'step': within_step,
  'step, all saved': within_step_all_saved,
  'hanging step': functools.partial(within_step, act=hang_here),
  'reported': functools.partial(after, loop, '_report'),
  'metrics line': torn_line,
  'evaluation': functools.partial(before, perplexity, 'evaluate'),
  # a save
  'save begun': functools.partial(after, state_files.StateFiles, 'begin_write'),
  'state written': functools.partial(before, FOLDER, 'complete'),
  'manifest begun': functools.partial(before, manifest, 'write_manifest'),
  'manifest written': functools.partial(after, manifest, 'write_manifest'),
  'named': functools.partial(before, FOLDER, 'prune'),
  'removing': functools.partial(before, FOLDER, 'clean'),
  'best marked': functools.partial(before, FOLDER, 'mark'),
  'file aside': functools.partial(before, os, 'replace'),
  # going on, and the end
  'restored': functools.partial(after, state_files.StateFiles, 'read'),
  'reporting': functools.partial(after, report, 'make'),
}
# Of an import, beside those of its save.
IMPORT_PLACES = {
  'reading tensors': reading_tensors,
  'removing the staged': functools.partial(before, staging.Staging, 'remove'),
}


def _child(job):
  descriptor = os.open(job['log'], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
  for stream in (1, 2):
    os.dup2(descriptor, stream)
  for stream in (sys.stdout, sys.stderr):
    stream.reconfigure(line_buffering=True)
  jax.config.update('jax_num_cpu_devices', job['devices'])
  for name, value in job.get('jax', {}).items():
    jax.config.update(name, value)
  if job['place']:
    name, number = job['place']
    (PLACES | IMPORT_PLACES)[name](number)
  os._exit(exits.call(COMMANDS[job['command']], job['flags']))


def serve():
  for line in sys.stdin:
    job = json.loads(line)
    pid = os.fork()
    if not pid:
      _child(job)
    for answer in (pid, None):
      if answer is None:
        _, answer = os.waitpid(pid, 0)
        answer = os.waitstatus_to_exitcode(answer)
      sys.stdout.write(f'{answer}\n')
      sys.stdout.flush()


if __name__ == '__main__':
  serve()
