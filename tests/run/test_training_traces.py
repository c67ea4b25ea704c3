"""Traces while a run trains: when they are written beside an evaluation."""

import threading
import types

import numpy as np
import pytest

from moejax.run import training_traces


class Meeting:
  """Two evaluations, each of which waits until the other has begun."""

  def __init__(self, seconds):
    self._begun = [threading.Event(), threading.Event()]
    self._seconds = seconds

  def hook(self, number):
    def run(at, state):
      self._begun[number].set()
      met = self._begun[1 - number].wait(self._seconds)
      return {f'{number} met': met, f'{number} at': at}

    return run


@pytest.mark.parametrize(
  ('count', 'platform', 'at_once'),
  [(1, 'cpu', True), (2, 'cpu', False), (1, 'cuda', False)],
)
def test_a_trace_is_written_beside_an_evaluation_on_one_cpu_device(
  count, platform, at_once, monkeypatch
):
  """Elsewhere one after the other: the first does not see the second begin."""
  meeting = Meeting(60 if at_once else 0.2)
  traces = lambda *_: [meeting.hook(1)]
  monkeypatch.setattr(training_traces, 'hooks', traces)
  devices = np.array([types.SimpleNamespace(platform=platform)] * count)
  mesh = types.SimpleNamespace(devices=devices)
  context = types.SimpleNamespace(model=types.SimpleNamespace(mesh=mesh))
  found = {}
  for hook in training_traces.with_traces(meeting.hook(0), context, None, None):
    found |= hook(7, None)
  assert found == {'0 met': at_once, '1 met': True, '0 at': 7, '1 at': 7}


def test_a_run_without_traces_has_its_evaluation_alone(monkeypatch):
  monkeypatch.setattr(training_traces, 'hooks', lambda *_: [])
  evaluation = Meeting(0).hook(0)
  context = types.SimpleNamespace(
    model=types.SimpleNamespace(
      mesh=types.SimpleNamespace(devices=np.array([None]))
    )
  )
  hooks = training_traces.with_traces(evaluation, context, None, None)
  assert hooks == [evaluation]


def test_an_error_of_either_reaches_the_caller():
  def fails(at, state):
    raise ValueError('no loss')

  fine = Meeting(0).hook(0)
  for pair in ((fails, fine), (fine, fails)):
    with pytest.raises(ValueError, match='no loss'):
      training_traces.beside(*pair)(1, None)
