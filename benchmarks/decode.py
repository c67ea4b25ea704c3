"""Measures how fast a model writes, beside transformers.

  python -m benchmarks.decode --peer_python=.venv-hf/bin/python
  python -m benchmarks.decode --peer_python=... --batch_sizes=1,4,16

Both sides continue the same prompts greedily with the same random OLMoE in
float32: moejax by what `cli.generate` runs, the peer by `model.generate`, both
with a key-value cache. They take turns in every round. Printed are new tokens a
second of all prompts together, at each batch size, the ratio of both, and the
share of prompts that both continue alike, token by token. Reading the prompts
is timed too.

--peer_python names a Python with transformers and torch; `make test-hf` makes
one.
"""

import argparse
import json
import pathlib
import sys
import tempfile
import time
from collections.abc import Sequence
from typing import Any

import numpy as np

from benchmarks import decode_peer, peer_process, standard, timing
from moejax.core import command, exits
from moejax.evals import generate, sampling
from moejax.run import importing, trained

Ids = list[list[int]]


def main(argv: Sequence[str]) -> None:
  """Reads the flags and measures."""
  args = standard.parse(_flags(), argv)
  with tempfile.TemporaryDirectory() as folder:
    _report(args, pathlib.Path(folder))


def _flags() -> argparse.ArgumentParser:
  flags = command.parser(__doc__)
  add = flags.add_argument
  count = command.number(int, 1, 1024)
  add('--peer_python', default=sys.executable, help='a Python with the peer')
  add('--batch_sizes', type=_sizes, default=[1, 16], help='of both sides')
  add('--prompt', type=count, default=64, help='tokens of each prompt')
  add('--new', type=count, default=64, help='tokens to write')
  add('--rounds', type=count, default=5, help='of both sides')
  return flags


def _sizes(text: str) -> list[int]:
  size = command.number(int, 1, 1024)
  return [size(number) for number in text.split(',')]


def _report(args: argparse.Namespace, folder: pathlib.Path) -> None:
  """Runs both sides in turn, and prints a line for each batch size."""
  rng = np.random.default_rng(0)
  shape = max(args.batch_sizes), args.prompt
  prompts: Ids = rng.integers(1, 8192, shape).tolist()
  task = {'prompts': prompts, 'new': args.new}
  (folder / 'task.json').write_text(json.dumps(task))
  peer = Peer(args.peer_python, folder)
  try:
    peer.read()  # the model is written
    own = Own(folder, prompts, args.new)
    for size in args.batch_sizes:
      ours, theirs = [], []
      for number in range(timing.WARM_UP + args.rounds):
        answers, seconds = own.write(size)
        answer = peer.write(size)
        if number >= timing.WARM_UP:
          ours.append(seconds)
          theirs.append(answer['seconds'])
      if size == args.batch_sizes[0]:
        print(
          f'{answer["model"]}; float32, prompts of {args.prompt} tokens, '
          f'{args.new} new ones, {args.rounds} rounds'
        )
      _print(size, size * args.new, (ours, theirs), (answers, answer))
  finally:
    peer.end()


def _print(
  size: int,
  tokens: int,
  seconds: tuple[list[float], list[float]],
  answers: tuple[Ids, dict[str, Any]],
) -> None:
  """The line of one batch size."""
  ours, theirs = seconds
  best, each = timing.ratios(theirs, ours)
  own, other = answers
  same = np.mean([a == b for a, b in zip(own, other['answers'], strict=True)])
  print(
    f'batch {size:3d}: moejax {tokens / min(ours):7.0f} tokens/s, transformers '
    f'{tokens / min(theirs):7.0f}; moejax / transformers: {best:.2f} of best, '
    f'{each:.2f} of each; {same:.0%} of prompts are continued alike'
  )


class Own:
  """moejax's side."""

  def __init__(self, folder: pathlib.Path, prompts: Ids, new: int):
    silent = lambda _: None
    workdir = str(folder / 'run')
    importing.import_folder(str(folder / 'hf'), workdir, silent, silent)
    found = trained.open_trained(workdir, [('model.dtype', 'float32')])
    self._model = found.model
    self._weights, _ = found.weights('newest', silent)
    self._prompts, self._new = prompts, new

  def write(self, size: int) -> tuple[Ids, float]:
    """The new ids of so many prompts, and the seconds that they took."""
    begin = time.perf_counter()
    answers = generate.generate(
      self._model,
      self._weights,
      self._prompts[:size],
      sampling.Sampling(),
      max_new_tokens=self._new,
      end_ids=(),
      start=(),
    )
    return answers, time.perf_counter() - begin


class Peer(peer_process.PeerProcess):
  """The peer's side."""

  def __init__(self, python: str, folder: pathlib.Path):
    super().__init__(
      python, decode_peer.PROGRAM, folder, 'transformers and torch'
    )

  def write(self, size: int) -> dict[str, Any]:
    """`seconds`, `answers` and a description of the peer's `model`."""
    return self.ask(size)


if __name__ == '__main__':
  exits.main(main, keeps=False)
