"""Measures how a long document becomes rows: its speed, and its memory.

  python -m benchmarks.text --mb=1000
  python -m benchmarks.text --tokenizer=path/of/a/tokenizer.json

One file of --mb megabytes, the shipped texts over and over, is packed as a run
packs its text, in a process of its own whose largest memory is read at its end.
Then the first --whole_mb of it are encoded in pieces and as a whole, in turn,
each time in a process of its own: the ids must be the same, and the ratios of
time and memory are printed. The file and the rows are in a folder that is
removed.
"""

import argparse
import functools
import hashlib
import json
import pathlib
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from benchmarks import standard, timing
from moejax.core import command, errors, exits
from moejax.data import build, long_text, mixtures, tasks
from moejax.data import config as configs
from moejax.data import vocab as vocabs

LENGTH = 1024


def main(argv: Sequence[str]) -> None:
  """Reads the flags and measures."""
  args = standard.parse(_flags(), argv)
  if args.side:
    print(json.dumps(_measured(args)))
    return
  if args.tokenizer:
    _check(args.tokenizer, args.eos_token)
  with tempfile.TemporaryDirectory() as folder:
    _report(args, pathlib.Path(folder))


def _flags() -> argparse.ArgumentParser:
  flags = command.parser(__doc__)
  add = flags.add_argument
  size = command.number(int, 1, 100_000)
  add('--mb', type=size, default=1000, help='of the file that is packed')
  add('--whole_mb', type=size, default=20, help='that are encoded as a whole')
  add('--rounds', type=command.number(int, 1), default=3, help='of both sides')
  add('--tokenizer', default='', help='a tokenizer.json, beside the shipped')
  add('--eos_token', default='<|endoftext|>', help='of that tokenizer')
  add('--side', choices=[*SIDES], help='(measures one side and prints JSON)')
  add('--file', default='', help='(what it reads)')
  return flags


def _check(tokenizer: str, eos_token: str) -> None:
  """Raises InputError, before anything is measured, if it cannot be used."""
  try:
    vocabs.HfTokenizer(tokenizer, eos_token).encode('loads it')
  except errors.InputError as e:
    raise errors.InputError(f'--tokenizer={tokenizer}: {e}') from e


def _report(args: argparse.Namespace, folder: pathlib.Path) -> None:
  long, short = folder / 'long.txt', folder / 'short.txt'
  _write(long, args.mb)
  _write(short, args.whole_mb)
  for name in ['', args.tokenizer] if args.tokenizer else ['']:
    title = name or 'the shipped vocabulary'
    measure = functools.partial(_side, args.eos_token, name)
    measured = measure('rows', long)
    print(
      f'{title}: {args.mb} MB as one document into rows of {LENGTH}: '
      f'{measured["seconds"]:.0f} s, {args.mb / measured["seconds"]:.1f} MB/s, '
      f'{measured["tokens"]:,} tokens, {measured["peak_mb"]:,.0f} MB of memory',
      flush=True,
    )
    sides: dict[str, list[dict[str, Any]]] = {'pieces': [], 'whole': []}
    for _ in range(args.rounds):
      for side, rounds in sides.items():
        rounds.append(measure(side, short))
    pieces, whole = sides['pieces'], sides['whole']
    same = {one['sha256'] for one in (*pieces, *whole)}
    seconds = _ratio(pieces, whole, 'seconds')
    memory = _ratio(pieces, whole, 'peak_mb')
    print(
      f'  {args.whole_mb} MB in pieces / as a whole: time {seconds:.2f}, '
      f'memory {memory:.2f} '
      f'({pieces[0]["peak_mb"]:,.0f} and {whole[0]["peak_mb"]:,.0f} MB), '
      f'ids {"the same" if len(same) == 1 else "DIFFERENT"}',
      flush=True,
    )
    if len(same) > 1:
      raise errors.StoppedError(
        f'{title}: pieces have other ids than the whole'
      )


def _ratio(sides: list[Any], base: list[Any], key: str) -> float:
  """The median over the rounds of the ratio of two measured values."""
  pairs = zip(sides, base, strict=True)
  return float(np.median([a[key] / b[key] for a, b in pairs]))


def _write(path: pathlib.Path, megabytes: int) -> None:
  """Writes the shipped texts over and over, each time after another line."""
  names = mixtures.MIXTURES['minipile'].tasks
  texts = [
    long_text.whole(text).encode()
    for name in names
    for text in tasks.Minipile(name).texts('train')
  ]
  number = 0
  with path.open('wb') as out:
    while True:
      for text in (f'Round {number}.\n'.encode(), *texts):
        out.write(text)
        if out.tell() >= megabytes * 10**6:
          return
      number += 1


def _side(
  eos_token: str, tokenizer: str, side: str, file: pathlib.Path
) -> dict[str, Any]:
  """Measures one side in a process of its own; returns what it prints."""
  line = [sys.executable, '-m', 'benchmarks.text']
  line += _side_flags(eos_token, tokenizer, side, file)
  done = subprocess.run(line, capture_output=True, text=True, check=False)
  if done.returncode:
    lines = done.stderr.strip().splitlines() or ['no error was printed']
    raise errors.InputError(f'the side {side} failed: {lines[-1]}')
  return json.loads(done.stdout.splitlines()[-1])


def _side_flags(
  eos_token: str, tokenizer: str, side: str, file: pathlib.Path
) -> list[str]:
  """The flags of that process; without a tokenizer it takes the shipped one."""
  flags = [f'--side={side}', f'--file={file}']
  if tokenizer:
    flags += [f'--tokenizer={tokenizer}', f'--eos_token={eos_token}']
  return flags


def _measured(args: argparse.Namespace) -> dict[str, Any]:
  vocab: vocabs.Vocab = vocabs.SentencePiece()
  if args.tokenizer:
    vocab = vocabs.HfTokenizer(args.tokenizer, args.eos_token)
  vocab.encode('loads the model')
  begin = time.perf_counter()
  measured = SIDES[args.side](pathlib.Path(args.file), vocab)
  seconds = time.perf_counter() - begin
  return {'seconds': seconds, 'peak_mb': timing.peak_mb(), **measured}


def _rows(file: pathlib.Path, vocab: vocabs.Vocab) -> dict[str, Any]:
  data = configs.DataConfig(
    files=str(file),
    vocab=vocab,
    sequence_length=LENGTH,
    cache_dir=str(file.parent / 'rows'),
  )
  made = build.build(data, 1, 0)
  domain = made.domains['files']
  return {'tokens': domain.train.num_tokens + domain.validation.num_tokens}


def _pieces(file: pathlib.Path, vocab: vocabs.Vocab) -> dict[str, Any]:
  document = long_text.document(long_text.of_file(file), vocab)
  return _digest(document.parts)


def _whole(file: pathlib.Path, vocab: vocabs.Vocab) -> dict[str, Any]:
  ids = vocab.encode(file.read_text(encoding='utf-8'))
  return _digest([np.array([*ids, vocab.eos_id], np.int32)])


def _digest(arrays: Any) -> dict[str, Any]:
  digest = hashlib.sha256()
  for array in arrays:
    digest.update(array.tobytes())
  return {'sha256': digest.hexdigest()}


SIDES: dict[str, Callable[[pathlib.Path, vocabs.Vocab], dict[str, Any]]] = {
  'rows': _rows,
  'pieces': _pieces,
  'whole': _whole,
}


if __name__ == '__main__':
  exits.main(main, keeps=False)
