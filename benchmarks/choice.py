"""Measures multiple-choice scoring beside lm-evaluation-harness.

  python -m benchmarks.choice --peer_python=.venv-harness/bin/python
  python -m benchmarks.choice --peer_python=... --questions=200 --shots=2

Both sides score the options of the same questions, as requests of the harness,
with the same random OLMoE in float32: moejax by what `--model moejax` runs, the
peer by `--model hf`. They take turns in every round. Printed are tokens/s, the
ratio of both, and how far the log-probabilities differ. A token counts once for
each option whose context or text it is in, on both sides; moejax computes a
context that options share once.

--peer_python names a Python with lm_eval[hf] and torch; `make test-harness`
makes one. The peer's batch size is the fastest of --batch_sizes.
"""

import argparse
import dataclasses
import gzip
import json
import pathlib
import random
import sys
import tempfile
import time
import types
from collections.abc import Sequence
from typing import Any

import numpy as np

from benchmarks import choice_peer, peer_process, standard, timing
from moejax.core import command, exits
from moejax.evals.harness import Harness
from moejax.run import harness, importing

TEXT = pathlib.Path(importing.__file__).parents[1] / 'data' / 'minipile'
OPTIONS = 4
# Words of a question (at least, below) and of an option.
QUESTION_WORDS, OPTION_WORDS = (25, 75), (3, 12)
Pairs = list[tuple[str, str]]


def main(argv: Sequence[str]) -> None:
  """Reads the flags and measures."""
  args = standard.parse(_flags(), argv)
  with tempfile.TemporaryDirectory() as folder:
    _report(args, pathlib.Path(folder))


def _flags() -> argparse.ArgumentParser:
  flags = command.parser(__doc__)
  add = flags.add_argument
  count = command.number(int, 1, 100_000)
  add('--peer_python', default=sys.executable, help='a Python with the peer')
  add('--questions', type=count, default=64, help=f'of {OPTIONS} options')
  add('--shots', type=command.number(int, 0, 100), default=0, help='of each')
  add('--rounds', type=count, default=5, help='of both sides')
  add('--batch_sizes', type=_sizes, default=[4, 16, 64], help="the peer's")
  return flags


def _sizes(text: str) -> list[int]:
  return [int(number) for number in text.split(',')]


def _report(args: argparse.Namespace, folder: pathlib.Path) -> None:
  """Runs both sides in turn and prints their speeds and the ratio."""
  pairs = questions(args.questions, args.shots)
  (folder / 'pairs.json').write_text(json.dumps(pairs))
  (folder / 'text.json').write_text(json.dumps(_words()))
  peer = Peer(args.peer_python, folder)
  try:
    peer.read()  # the model is written
    own = Own(folder, pairs)
    sizes = args.batch_sizes
    # The first call of each size warms it up, as our first two calls do.
    first = {size: [peer.score(size), peer.score(size)][1] for size in sizes}
    size = min(sizes, key=lambda n: first[n]['seconds'])
    for _ in range(timing.WARM_UP):
      own.score()
    ours, theirs = [], []
    for _ in range(args.rounds):
      ours.append(own.score())
      answer = peer.score(size)
      theirs.append(answer['seconds'])
  finally:
    peer.end()
  _print(own, pairs, (ours, theirs), f'batches of {size}', answer)


def _print(
  own: 'Own',
  pairs: Pairs,
  seconds: tuple[list[float], list[float]],
  batches: str,
  answer: dict[str, Any],
) -> None:
  """The table: a line for each side, and their ratio."""
  ours, theirs = seconds
  read = own.tokens()
  print(
    f'{len(pairs)} options, {read} tokens ({answer["model"]}; float32, '
    f'{len(ours)} rounds)'
  )
  sides = ('moejax', ours, ''), ('lm_eval --model hf', theirs, batches)
  for name, times, more in sides:
    print(f'{name:20s} {read / min(times):9.0f} tokens/s  {more}')
  best, each = timing.ratios(theirs, ours)
  difference = np.max(np.abs(np.array(own.answers) / answer['answers'] - 1))
  print(
    f'moejax / hf: {best:.2f} of best, {each:.2f} of each; log-probabilities '
    f'differ by {difference:.0e} of their size at most'
  )


class Own:
  """moejax's side.

  Attributes:
    answers: log-probability of each option, of the last call of `score`.
  """

  def __init__(self, folder: pathlib.Path, pairs: Pairs):
    silent = lambda _: None
    workdir = str(folder / 'run')
    importing.import_folder(str(folder / 'hf'), workdir, silent, silent)
    self._harness = Harness()
    arguments = {'workdir': workdir, 'config.model.dtype': 'float32'}
    harness.open_harness(self._harness, arguments, shown=False)
    # Compiling is not timed, so batches are those of a large benchmark.
    self._harness.engine = dataclasses.replace(
      self._harness.engine, few_shapes=False
    )
    self._requests = [types.SimpleNamespace(args=pair) for pair in pairs]
    self.answers: list[float] = []

  def score(self) -> float:
    """Seconds of scoring all options."""
    begin = time.perf_counter()
    answers = self._harness.loglikelihood(self._requests)
    seconds = time.perf_counter() - begin
    self.answers = [nats for nats, _ in answers]
    return seconds

  def tokens(self) -> int:
    """Tokens of all contexts and options."""
    encoder = self._harness.engine.encoder
    scored = encoder.pairs([request.args for request in self._requests])
    return sum(len(one.ids) + 1 for one in scored)


class Peer(peer_process.PeerProcess):
  """The peer's side."""

  def __init__(self, python: str, folder: pathlib.Path):
    super().__init__(
      python, choice_peer.PROGRAM, folder, 'lm_eval[hf] and torch'
    )

  def score(self, batch_size: int) -> dict[str, Any]:
    """`seconds`, `answers` and a description of the peer's `model`."""
    return self.ask(batch_size)


def questions(count: int, shots: int) -> Pairs:
  """(context, option) of each option of questions made of shipped text.

  Args:
    count: number of questions.
    shots: solved questions before each.
  """
  words, rng = _words().split(), random.Random(0)

  def span(least: int, most: int) -> str:
    size = rng.randrange(least, most)
    at = rng.randrange(len(words) - size)
    return ' '.join(words[at : at + size])

  pairs = []
  for _ in range(count):
    solved = [
      f'Question: {span(*QUESTION_WORDS)}\nAnswer: {span(*OPTION_WORDS)}\n\n'
      for _ in range(shots)
    ]
    context = f'{"".join(solved)}Question: {span(*QUESTION_WORDS)}\nAnswer:'
    pairs += [(context, f' {span(*OPTION_WORDS)}') for _ in range(OPTIONS)]
  return pairs


def _words() -> str:
  """English text that moejax ships."""
  with gzip.open(TEXT / 'speeches-validation.jsonl.gz', 'rt') as lines:
    return ' '.join(json.loads(line)['text'] for line in lines)


if __name__ == '__main__':
  exits.main(main, keeps=False)
