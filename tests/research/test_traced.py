"""Traces of a study's runs, with traces made by hand."""

import pathlib

import numpy as np
import pytest

from moejax.analysis import trace_file
from moejax.analysis.trace import Trace
from moejax.research import order, traced
from moejax.run import trace_files


def trace(step, gates):
  """Two tokens in one layer, with these gates of two experts."""
  weight_TNK = np.array(gates, np.float32)[:, None]
  return Trace(
    step=step,
    tokens_seen=0,
    layers=(0,),
    num_experts=4,
    domains=('code',),
    expert_TNK=np.zeros(weight_TNK.shape, np.int16),
    weight_TNK=weight_TNK,
    dropped_TNK=np.zeros(weight_TNK.shape, bool),
    entropy_TN=np.zeros((2, 1), np.float32),
    token_T=np.zeros(2, np.int32),
    position_T=np.zeros(2, np.int32),
    document_T=np.zeros(2, np.int32),
    domain_T=np.zeros(2, np.int16),
  )


def test_the_sums_of_gates_are_means_over_tokens_and_runs(monkeypatch):
  asked = []
  by_step = {
    '0': trace(0, [[0.1, 0.1], [0.2, 0.2]]),
    '500': trace(500, [[0.5, 0.5], [0.5, 0.1]]),
  }

  def trace_run(workdir, request, note):
    asked.append((workdir, request.checkpoints, request.tokens))
    return request.checkpoints.split(',')

  monkeypatch.setattr(trace_files, 'trace_run', trace_run)
  monkeypatch.setattr(trace_file, 'read', by_step.__getitem__)

  class Run:
    def __init__(self, name):
      self.workdir, self.steps = pathlib.Path(name), 500

  sums = traced.gates([Run('a'), Run('b')], tokens=7)
  # The tokens' sums are 0.2 and 0.4, then 1 and 0.6.
  assert sums == pytest.approx({'start': 0.3, 'end': 0.8})
  assert asked == [('a', '0,500', 7), ('b', '0,500', 7)]
  assert order.sum_rows({'top_2': sums})[1] == ['top_2', '0.300', '0.800']
