"""What a program that is sent metrics gets, whatever happens to the run."""

import threading

import numpy as np
import pytest
from etils import epath

from moejax.core import log
from moejax.train.loggers import service


class Program:
  """Another program: runs by id, each with the points that it was sent."""

  def __init__(self, where='here'):
    self.where = where
    self.runs = {}
    self.ends = []
    self.fails_at = None  # a step
    self.id = None

  def place(self):
    return self.where

  def start(self, run):
    self.id = run or f'run{len(self.runs)}'
    self.runs.setdefault(self.id, [])
    return self.id

  def log(self, step, scalars):
    if step == self.fails_at:
      raise ConnectionError('no network\nand more lines')
    self.runs[self.id] += [(step, name, v) for name, v in scalars.items()]

  def finish(self, complete):
    self.ends.append(complete)


class Run:
  """A training run with metrics.jsonl and the program, of 6 steps."""

  def __init__(self, folder):
    self.folder = epath.Path(folder)
    self.said = []

  def train(self, program, after, steps):
    """Trains from a checkpoint until it ends, is stopped or killed."""
    said = self.said.append
    out = service.ServiceWriter('other', program, self.folder, 6, said)
    both = log.MultiWriter([
      log.JsonlWriter(self.folder / 'metrics.jsonl'),
      out,
    ])
    both.truncate_after(after)
    for step in steps:
      both.write(step, {'loss': 1 / step, 'moe/load': np.ones((2, 3))})
      if step % 3 == 0:
        both.write(step, {'eval/loss': 2.0})
    both.close()


WHOLE = [
  (1, 'train/loss', 1.0),
  (2, 'train/loss', 1 / 2),
  (3, 'train/loss', 1 / 3),
  (3, 'eval/loss', 2.0),
  (4, 'train/loss', 1 / 4),
  (5, 'train/loss', 1 / 5),
  (6, 'train/loss', 1 / 6),
  (6, 'eval/loss', 2.0),
]


@pytest.fixture
def run(tmp_path):
  return Run(tmp_path)


def test_scalars_arrive_in_order_under_their_tags(run):
  run.train(program := Program(), 0, range(1, 7))
  assert program.runs == {'run0': WHOLE}
  assert program.ends == [True]
  assert run.said == []


def test_a_resumed_run_goes_on_in_the_same_run_and_repeats_nothing(run):
  program = Program()
  run.train(program, 0, range(1, 6))
  assert program.ends == [False]
  run.train(program, 2, range(3, 7))  # from a checkpoint of step 2
  assert program.runs == {'run0': WHOLE}
  assert program.ends == [False, True]


def test_a_part_of_a_step_that_a_kill_lost_comes_later(run):
  program = Program()
  run.train(program, 0, [1, 2])
  program.runs['run0'].append((3, 'train/loss', 1 / 3))
  path = run.folder / 'loggers' / 'other.json'
  path.write_text(path.read_text().replace(': 2', ': 3'))  # not eval/loss
  run.train(program, 2, range(3, 7))
  assert program.runs == {'run0': WHOLE}


def test_an_error_is_one_line_and_the_next_start_sends_what_is_missing(run):
  program = Program()
  program.fails_at = 2
  run.train(program, 0, [1, 2, 3, 4])
  assert run.said == [
    'train.loggers.other gets no metrics from here on (no network); '
    'training goes on'
  ]
  assert [step for step, *_ in program.runs['run0']] == [1]
  program.fails_at = None
  run.train(program, 4, [5, 6])
  assert program.runs == {'run0': WHOLE}


def test_a_program_that_ends_the_process_does_not_end_training(
  run, monkeypatch
):
  def leave(_):
    raise SystemExit

  program = Program()
  monkeypatch.setattr(program, 'start', leave)
  run.train(program, 0, [1, 2])
  assert len(run.said) == 1
  assert '(SystemExit)' in run.said[0]
  assert len(log.read(run.folder / 'metrics.jsonl')) == 2


def test_another_place_and_a_run_from_step_0_are_new_runs(run):
  run.train(Program(), 0, range(1, 5))
  run.train(there := Program('there'), 4, [5, 6])
  assert there.runs == {'run0': WHOLE}  # from the beginning
  run.train(there, 0, [1])
  assert there.runs == {'run0': WHOLE, 'run1': WHOLE[:1]}


def test_a_program_that_hangs_is_left_behind(run, monkeypatch):
  monkeypatch.setattr(service, 'FINISH_S', 0.01)
  program, go_on = Program(), threading.Event()
  monkeypatch.setattr(program, 'finish', lambda _: go_on.wait())
  run.train(program, 0, [1, 2])
  go_on.set()
  assert run.said == [
    'train.loggers.other has not taken all metrics within 0.01 s'
  ]
