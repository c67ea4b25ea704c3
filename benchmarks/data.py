"""Measures the data pipeline: packing, reading, memory and start-up.

  python -m benchmarks.data
  python -m benchmarks.data --peer_python=.venv-beam/bin/python

Four figures, each from processes of their own, which run in turn and several
times, because the machine may not be idle:

  1. Records read in a second, as tokens, beside those that the model of
     configs/tiny.py trains on in a second. The aim is 20 times as many.
  2. The memory that one epoch adds to a process. The aim is none.
  3. The time from the start of Python to the first batch of a packed text, and
     whether TensorFlow was imported. The aim is under 3 seconds without it.
  4. Megabytes of text that one core packs in a second. With --peer_python,
     beside SeqIO's cache command and `datasets.map` on the same documents.

The text is --mb megabytes of the shipped texts, with a document in each line,
and is in a folder that is removed.
"""

import argparse
import functools
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from benchmarks import data_peers, peers, standard, step, timing
from moejax import config
from moejax.core import command, exits
from moejax.data import build, cache_writer, files, long_text, mixtures, tasks
from moejax.data import config as configs
from moejax.data import vocab as vocabs

CONFIG = pathlib.Path(__file__).parents[1] / 'configs' / 'tiny.py'
_STEPS = 10  # of the tiny model, that are timed
_START = """
import sys
from moejax.data import build, config
data = config.DataConfig(files=sys.argv[1], cache_dir=sys.argv[2])
build.build(data, 8, 0).train.batch(0)
print('tensorflow' in sys.modules)
"""


def main(argv: Sequence[str]) -> None:
  """Reads the flags and measures."""
  args = standard.parse(_flags(), argv)
  if args.side:
    print(json.dumps(SIDES[args.side](pathlib.Path(args.folder))))
    return
  if args.peer_python:
    needs = [m for peer in data_peers.PEERS.values() for m in peer.needs]
    peers.check_python(args.peer_python, needs, 'the comparison')
  with tempfile.TemporaryDirectory() as folder:
    _report(args, pathlib.Path(folder))


def _flags() -> argparse.ArgumentParser:
  flags = command.parser(__doc__)
  add = flags.add_argument
  add('--mb', type=command.number(int, 1, 100_000), default=20, help='of text')
  add('--rounds', type=command.number(int, 1), default=3, help='of all sides')
  add('--peer_python', default='', help='a Python with seqio, beam, datasets')
  add('--side', choices=[*SIDES], help='(measures one side and prints JSON)')
  add('--folder', default='', help='(with the text)')
  return flags


def _report(args: argparse.Namespace, folder: pathlib.Path) -> None:
  write_text(folder, args.mb * 10**6)
  size = (folder / 'lines.txt').stat().st_size / 1e6
  data = data_config(folder)
  build.build(data, 8, 0)  # packs the text
  measured: dict[str, list[dict[str, Any]]] = {}
  for _ in range(args.rounds):
    for name, run in _sides(args, folder).items():
      measured.setdefault(name, []).append(run())
  reads, trains = (_median(measured[n], 'speed') for n in ('reads', 'trains'))
  print(
    f'reading {reads:,.0f} tokens/s, the tiny model trains on '
    f'{trains:,.0f} tokens/s: {reads / trains:.0f} times (the aim is 20)'
  )
  grown = max(one['grown_mb'] for one in measured['reads'])
  rows = measured['reads'][0]['rows']
  print(f'memory that an epoch of {rows:,} rows adds: {grown:.1f} MB')
  start = measured['start']
  tensorflow = any(one['tensorflow'] for one in start)
  print(
    f'from the start of Python to the first batch of a packed text: '
    f'{_median(start, "seconds"):.2f} s, {"with" if tensorflow else "without"} '
    'TensorFlow (the aim is 3 without)'
  )
  ours = _speeds(measured['packs'], size)
  print(f'packing: {np.median(ours):.1f} MB/s on one core')
  for name in data_peers.PEERS:
    if name in measured:
      theirs = _speeds(measured[name], size)
      print(
        f'  {measured[name][0]["what"]}: {np.median(theirs):.1f} MB/s; moejax '
        f'/ {name}: {np.median(np.array(ours) / theirs):.2f}, the median of '
        f'{args.rounds} rounds'
      )


def _median(sides: list[dict[str, Any]], key: str) -> float:
  return float(np.median([one[key] for one in sides]))


def _speeds(sides: list[dict[str, Any]], megabytes: float) -> np.ndarray:
  return np.array([megabytes / one['seconds'] for one in sides])


def data_config(folder: pathlib.Path) -> configs.DataConfig:
  """The data of the text in a folder."""
  return configs.DataConfig(
    files=str(folder / 'lines.jsonl'), cache_dir=str(folder / 'caches')
  )


def write_text(folder: pathlib.Path, size: int) -> None:
  """Writes documents of `size` bytes as lines of text and of JSON.

  They are the shipped texts over and over, without their line ends, each time
  after another number.
  """
  names = mixtures.MIXTURES['minipile'].tasks
  texts = [
    ' '.join(long_text.whole(text).split())
    for name in names
    for text in tasks.Minipile(name).texts('train')
  ]
  written = number = 0
  with (
    (folder / 'lines.txt').open('w', encoding='utf-8') as plain,
    (folder / 'lines.jsonl').open('w', encoding='utf-8') as rows,
  ):
    while written < size:
      line = f'{number} {texts[number % len(texts)]}'
      plain.write(f'{line}\n')
      rows.write(json.dumps({'text': line}, ensure_ascii=False) + '\n')
      written += len(line.encode()) + 1
      number += 1


def _sides(
  args: argparse.Namespace, folder: pathlib.Path
) -> dict[str, Callable[[], dict[str, Any]]]:
  """What is measured in each round, in this order."""
  own = [sys.executable, '-m', 'benchmarks.data', f'--folder={folder}']
  sides: dict[str, Callable[[], dict[str, Any]]] = {
    name: functools.partial(step.side, [*own, f'--side={name}'])
    for name in SIDES
  }
  sides['start'] = functools.partial(_start, folder)
  if args.peer_python:
    for name, peer in data_peers.PEERS.items():
      sides[name] = functools.partial(_peer, args.peer_python, peer, folder)
  return sides


def _peer(python: str, peer: Any, folder: pathlib.Path) -> dict[str, Any]:
  with tempfile.TemporaryDirectory(dir=folder) as results:
    task = {
      'lines': str(folder / 'lines.txt'),
      'model': str(vocabs.SHIPPED),
      'length': data_config(folder).sequence_length,
      'folder': results,
    }
    return step.side([python, '-c', peer.program, json.dumps(task)])


def _start(folder: pathlib.Path) -> dict[str, Any]:
  """The time of a process that reads one batch, from its start to its end."""
  data = data_config(folder)
  words = [sys.executable, '-c', _START, data.files, data.cache_dir]
  begin = time.perf_counter()
  done = subprocess.run(words, capture_output=True, text=True, check=True)
  seconds = time.perf_counter() - begin
  return {'seconds': seconds, 'tensorflow': done.stdout.strip() == 'True'}


def _reads(folder: pathlib.Path) -> dict[str, Any]:
  """Reads one epoch, batch by batch."""
  data = build.build(data_config(folder), 8, 0)
  train, rows = data.train, data.domains['files'].train.num_rows
  steps = rows // train.batch_size
  warm_up = steps // 10
  for number in range(warm_up):
    train.batch(number)
  before, grown, seconds = _memory_mb(), 0.0, 0.0
  for number in range(warm_up, steps):
    begin = time.perf_counter()
    train.batch(number)
    seconds += time.perf_counter() - begin
    if number % 100 == 0:
      grown = max(grown, _memory_mb() - before)
  tokens = (steps - warm_up) * train.batch_size * train.length
  return {'speed': tokens / seconds, 'grown_mb': grown, 'rows': rows}


def _memory_mb() -> float:
  """The memory of this process without mapped files, in MB.

  Where the system does not tell, the largest memory that the process has had.
  """
  status = pathlib.Path('/proc/self/status')
  if not status.exists():
    return timing.peak_mb()
  lines = dict(
    line.split(':', 1)
    for line in status.read_text().splitlines()
    if ':' in line
  )
  return int(lines['RssAnon'].split()[0]) / 1e3


def _trains(folder: pathlib.Path) -> dict[str, Any]:
  """Trains the model of configs/tiny.py on one batch over and over."""
  del folder
  run = config.load(str(CONFIG))
  shape = standard.Shape(
    run.model, run.train.batch_size, run.data.sequence_length
  )
  seconds = step.time_step(shape, _STEPS)['seconds']
  return {'speed': shape.tokens / float(np.median(seconds))}


def _packs(folder: pathlib.Path) -> dict[str, Any]:
  """Packs the text on one core."""
  if hasattr(os, 'sched_setaffinity'):
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
  vocab = vocabs.SentencePiece()
  vocab.encode('loads the model')
  own = files.Files(
    str(folder / 'lines.jsonl'), validation=str(folder / 'lines.txt')
  )
  with tempfile.TemporaryDirectory(dir=folder) as results:
    request = cache_writer.Request(
      vocab,
      data_config(folder).sequence_length,
      pathlib.Path(results),
      processes=1,
    )
    begin = time.perf_counter()
    own.rows('train', request)
    return {'seconds': time.perf_counter() - begin}


SIDES: dict[str, Callable[[pathlib.Path], dict[str, Any]]] = {
  'reads': _reads,
  'trains': _trains,
  'packs': _packs,
}


if __name__ == '__main__':
  exits.main(main, keeps=False)
