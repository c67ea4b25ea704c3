"""A training process that records which rows it reads, and may stop itself.

  python watched.py --seen=folder [--stop=1:3:SIGINT] <flags of the command>

Each batch that it reads is a line of JSON in `folder/<process>.jsonl`: `batch`,
its number or 'validation' for an evaluation, and `rows`, the rows of it that
this process reads. With `--stop=P:N:S` process P sends itself the signal S when
its N-th step is dispatched.
"""

import argparse
import json
import os
import pathlib
import signal
import sys

import jax

from moejax import main
from moejax.core import exits
from moejax.data import loader
from moejax.train import step


def write_rows(folder):
  batch, evaluated = loader.Loader.batch, loader.eval_batches

  def write(which, rows):
    line = {'batch': which, 'rows': None if rows is None else rows.tolist()}
    with open(folder / f'{jax.process_index()}.jsonl', 'a') as f:
      f.write(json.dumps(line) + '\n')

  def training(self, at, rows=None):
    write(at, rows)
    return batch(self, at, rows)

  def validation(reader, batch_size, rows=None):
    write('validation', rows)
    return evaluated(reader, batch_size, rows)

  loader.Loader.batch = training
  loader.eval_batches = validation


def stop(process, number, name):
  make = step.make

  def made(*args, **options):
    run, left = make(*args, **options), [number]

    def one(*inputs):
      result = run(*inputs)
      left[0] -= 1
      if left[0] == 0 and jax.process_index() == process:
        os.kill(os.getpid(), signal.Signals[name])
      return result

    return one

  step.make = made


if __name__ == '__main__':
  flags = argparse.ArgumentParser(allow_abbrev=False)
  flags.add_argument('--seen', type=pathlib.Path)
  flags.add_argument('--stop')
  args, rest = flags.parse_known_args()
  args.seen.mkdir(exist_ok=True)
  write_rows(args.seen)
  if args.stop:
    process, number, name = args.stop.split(':')
    stop(int(process), int(number), name)
  sys.argv[1:] = rest
  exits.main(main.main)
