"""Runs on the user's own text through the real command, quick to compile."""

import contextlib
import dataclasses
import io
import json
import pathlib

import numpy as np

from moejax import main
from moejax.core import exits, log
from moejax.train import signals

ROOT = pathlib.Path(__file__).parents[2]
STEPS = 6
FLAGS = (
  f'--config={ROOT}/configs/tiny.py:tiny',
  '--config.report.eval_batches=0',
  '--config.data.vocab=bytes',
  '--config.model.vocab_size=259',
  # Not by the machine: what runs share to rounding is measured in float32.
  '--config.model.dtype=float32',
  '--config.model.num_layers=1',
  # A selection bias: router state that is updated without a gradient.
  '--config.model.moe.balance.loss_free.rate=0.01',
  '--config.data.sequence_length=32',
  '--config.data.max_documents=0',
  f'--config.train.steps={STEPS}',
  '--config.train.log_every=1',
  '--config.train.checkpoint_every=2',
  '--config.train.eval_every=3',
  # Tests count the checkpoints of checkpoint_every, without a best one.
  '--config.train.save_best=false',
)
TEXT = 'the cat and a dog sat under the old tree by the house and saw a bird'
# With fewer than 200 documents, the last twentieth of each is held out, cut
# where a line begins: here that is the last line.
BODY_CHARS, LAST_LINE = 500, 'The end of story {:02}.'


@dataclasses.dataclass(frozen=True)
class Ended:
  """How a command ended, and the lines that it printed."""

  code: int
  out: list[str]
  err: list[str]


def call(*flags):
  """Runs the training command in this process."""
  out, err = io.StringIO(), io.StringIO()
  with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
    code = exits.call(main.main, merged(flags))
  return Ended(code, out.getvalue().splitlines(), err.getvalue().splitlines())


def merged(flags):
  """Each flag once, with its last value: two values of a key are refused."""
  return tuple({flag.partition('=')[0]: flag for flag in flags}.values())


def flags(text, workdir):
  """The flags of a run on a text."""
  return (*FLAGS, f'--config.data.files={text}', f'--workdir={workdir}')


def stories(num=60):
  """(body, last line) of `num` documents of simple English."""
  rng = np.random.default_rng(0)
  documents = []
  for number in range(num):
    words = ' '.join(rng.choice(TEXT.split(), BODY_CHARS))
    documents.append((words[:BODY_CHARS] + '.\n', LAST_LINE.format(number)))
  return documents


def write(path, documents):
  """A line of JSON for each document."""
  lines = (json.dumps({'text': text}) + '\n' for text in documents)
  path.write_text(''.join(lines))


def write_stories(path):
  write(path, [body + last for body, last in stories()])
  return path


def stop_after(monkeypatch, steps):
  """Acts as if Ctrl-C came while step number `steps` of a command computes."""
  seen = []

  def requested(_):
    seen.append(None)
    return 'SIGINT' if len(seen) >= steps else None

  monkeypatch.setattr(signals.StopSignal, 'requested', property(requested))


def records(workdir):
  """The lines of metrics.jsonl, without what a clock measured."""
  lines = log.read(pathlib.Path(workdir) / 'metrics.jsonl')
  return [log.deterministic(record) for record in lines]


def report(workdir):
  return json.loads((pathlib.Path(workdir) / 'report.json').read_text())
