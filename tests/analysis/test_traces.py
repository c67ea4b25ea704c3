"""Traces of several checkpoints: their order, and that they can be compared."""

import dataclasses

import numpy as np
import pytest
from helpers import traced

from moejax.analysis.traces import Traces
from moejax.core import errors


def test_traces_are_in_order_of_step():
  traces = Traces.of([traced.random(step=step) for step in (5, 1, 3)])
  assert [trace.step for trace in traces.each] == [1, 3, 5]
  assert traces.last.step == 5


@pytest.mark.parametrize(
  ('change', 'words'),
  [
    ({'num_experts': 8}, 'differ in their number of experts, 8 and 6'),
    ({'layers': (0, 2)}, 'differ in their layers with experts, 0, 2 and 0, 1'),
    ({'domains': ('code', 'law')}, 'differ in their domains, code, law and'),
    ({'token_T': np.zeros(60)}, 'are not of the same tokens'),
  ],
)
def test_traces_of_other_models_or_texts_cannot_be_compared(change, words):
  early, late = (traced.random(step=step) for step in (1, 2))
  with pytest.raises(errors.InputError, match=words) as error:
    Traces.of([dataclasses.replace(early, **change), late])
  assert 'steps 1 and 2' in str(error.value)
