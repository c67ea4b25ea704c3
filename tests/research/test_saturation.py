"""Study 3 from traces worked by hand."""

import dataclasses

import numpy as np
import pytest

from moejax.analysis.trace import Trace
from moejax.research import saturation


def trace(step, experts):
  """Two layers; in both, the experts of each token, one per token."""
  expert_TNK = np.repeat(np.array(experts, np.int16)[:, None, None], 2, axis=1)
  tokens = len(experts)
  return Trace(
    step=step,
    tokens_seen=10 * step,
    layers=(0, 1),
    num_experts=4,
    domains=('code',),
    expert_TNK=expert_TNK,
    weight_TNK=np.ones(expert_TNK.shape, np.float32),
    dropped_TNK=np.zeros(expert_TNK.shape, bool),
    entropy_TN=np.zeros((tokens, 2), np.float32),
    token_T=np.arange(tokens, dtype=np.int32),
    position_T=np.arange(tokens, dtype=np.int32),
    document_T=np.zeros(tokens, np.int32),
    domain_T=np.zeros(tokens, np.int16),
  )


# 100 steps; that of step 5 is for saturation alone.
TRACES = [
  trace(0, [3, 3, 3, 3]),
  trace(5, [0, 3, 3, 3]),
  trace(10, [0, 1, 3, 3]),
  trace(20, [1, 1, 3, 3]),
  trace(100, [0, 1, 2, 2]),
]


def test_saturation_is_against_the_end_and_change_since_a_tenth_before():
  found = saturation.measured(7, TRACES)
  assert found.seed == 7
  assert found.saturation == pytest.approx({
    0.0: 0,
    0.05: 0.25,
    0.1: 0.5,
    0.2: 0.25,
  })
  # From 10 to 20 one of four tokens changes, from 20 to 100 three.
  assert found.change_rate == pytest.approx({0.2: 0.25, 1.0: 0.75})
  # Loads 1, 1, 2, 0: 16 / (4 * 6).
  assert found.jain == pytest.approx([2 / 3, 2 / 3])


def settled():
  base = saturation.Settling(
    seed=0,
    saturation={0.05: 0.5, 0.1: 0.6, 0.3: 0.7, 0.6: 0.8, 0.9: 0.9},
    change_rate={0.2: 0.3, 1.0: 0.1},
    jain=[0.9, 0.7],
  )
  later = dataclasses.replace(
    base,
    seed=1,
    saturation={**base.saturation, 0.3: 0.8},
  )
  sigmoid = [
    dataclasses.replace(
      run, saturation={x: y + 0.05 for x, y in run.saturation.items()}
    )
    for run in (base, later)
  ]
  return {'smoe': [base, later], 'smoe_sigmoid': sigmoid}


def test_tables_have_the_papers_values_beside_ours():
  rows = saturation.saturation_rows(settled())
  assert rows[1] == [
    'softmax',
    '50.0 ± 0.0',
    '60.0 ± 0.0',
    '75.0 ± 7.1',
    '80.0 ± 0.0',
    '90.0 ± 0.0',
    '70.0',
    '91.7',
  ]
  assert saturation.change_rows(settled())[2] == [
    'sigmoid',
    '30.0 ± 0.0',
    '21.5',
    '10.0 ± 0.0',
    '7.3',
  ]
  assert saturation.jain_rows(settled())[1] == [
    'softmax',
    '0.900 ± 0.000',
    '0.700 ± 0.000',
  ]


def test_effects_are_over_the_same_seeds():
  found = saturation.effects(settled())
  assert [*found] == ['sigmoid for softmax']
  row = found['sigmoid for softmax']['saturation at 30%']
  assert row == {
    'difference': pytest.approx(0.05),
    'error': pytest.approx(0, abs=1e-9),
    'n': 2,
  }
  assert saturation.effect_rows(found)[1][:2] == [
    'sigmoid for softmax',
    '+0.050 ± 0.000',
  ]
  assert saturation.effect_rows({}) == [['effect']]


def test_it_draws(tmp_path):
  saturation.draw(settled()).savefig(tmp_path / 'x.png')
  assert (tmp_path / 'x.png').stat().st_size > 10_000
