"""The ground truths of the experiments, and how they are written down."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from moejax.core import table
from moejax.research.expert_estimation import atoms
from moejax.research.expert_estimation.experts import EXPERTS
from moejax.research.expert_estimation.gates import GATES
from moejax.research.expert_estimation.model import Model, Params

# Inputs are uniform on [-3, 3] (arXiv 2505.10860, appendix G.1).
EDGE = 3.0

# The gating pair (bias, slope) and the expert of each routed atom.
Routed = tuple[float, float, Mapping[str, float], float]
# Share, expert and variance of each shared atom.
Shared = tuple[float, Mapping[str, float], float]


@dataclasses.dataclass(frozen=True)
class Truth:
  """A density of which samples are drawn, or a regression with noise.

  Attributes:
    model: its form.
    params: its parameters.
    noise: standard deviation of the Gaussian noise of a regression; 0 of a
      density, whose variances are parameters.
    edge: inputs are uniform on [-edge, edge] in each dimension.
  """

  model: Model
  params: Params
  noise: float = 0.0
  edge: float = EDGE

  @property
  def measures(self) -> atoms.Measures:
    """The true mixing measures."""
    return atoms.of(self.model, self.params)


def truth(
  gate: str,
  expert: str,
  routed: Sequence[Routed],
  shared_expert: str = '',
  shared: Sequence[Shared] = (),
  noise: float = 0.0,
  extra_gate: Mapping[str, Any] | None = None,
) -> Truth:
  """A truth with inputs of one dimension.

  Args:
    gate: a name in GATES.
    expert: a name in EXPERTS, of the routed experts.
    routed: (bias, slope, expert, variance) of each routed atom.
    shared_expert: a name in EXPERTS; '' for no shared experts.
    shared: (share, expert, variance) of each shared atom.
    noise: of a regression, which is meant where it is not 0.
    extra_gate: further weights of the gate by name.

  Raises:
    InputError: a name is not known, or an expert lacks a parameter.
  """
  kind = table.lookup('expert', EXPERTS, expert)
  shared_kind = None
  if shared_expert:
    shared_kind = table.lookup('expert', EXPERTS, shared_expert)
  model = Model(
    gate=table.lookup('gate', GATES, gate),
    routed=kind,
    num_routed=len(routed),
    shared=shared_kind,
    num_shared=len(shared),
    regression=noise > 0,
  )
  bias, slope, experts, variance = zip(*routed, strict=True)
  weights = {'slope': np.array(slope)[:, None], 'bias': np.array(bias)}
  params = Params(
    gate=weights
    | {key: np.array(value) for key, value in (extra_gate or {}).items()},
    routed_EP=np.stack([kind.pack(values) for values in experts]),
    log_variance_E=np.log(variance),
    shared_SQ=np.zeros((0, 0))
    if shared_kind is None
    else np.stack([shared_kind.pack(values) for _, values, _ in shared]),
    shared_log_variance_S=np.log([variance for _, _, variance in shared]),
    shared_logit_S=np.log([share for share, _, _ in shared]),
  )
  return Truth(model, params, noise)


def with_gate(
  truth: Truth, gate: str, extra_gate: Mapping[str, Any] | None = None
) -> Truth:
  """A truth with another gate, of the same slopes and biases.

  Args:
    truth: a truth.
    gate: a name in GATES.
    extra_gate: further weights of that gate by name.
  """
  model = dataclasses.replace(truth.model, gate=GATES[gate])
  weights = dict(truth.params.gate)
  weights |= {key: np.array(v) for key, v in (extra_gate or {}).items()}
  return dataclasses.replace(
    truth, model=model, params=dataclasses.replace(truth.params, gate=weights)
  )


# arXiv 2505.10860, appendix G.1. Both slopes of a softmax gate are 5, so that
# this gate does not depend on the input.
SHARED_RELU = (1.0, {'inner': 6.0, 'offset': 0.0, 'outer': -8.0}, 0.25)
SHARED_LINEAR = (1.0, {'slope': 2.0, 'offset': 0.0}, 0.2)


def _relu(slope: float) -> tuple[Routed, ...]:
  return (
    (-0.5, slope, {'inner': -12.0, 'outer': 4.0}, 0.4),
    (0.5, slope, {'inner': 12.0, 'outer': 4.0}, 0.4),
  )


ROUTED_LINEAR: tuple[Routed, ...] = (
  (-0.5, 5.0, {'slope': 8.0, 'offset': 2.0}, 0.4),
  (0.5, 5.0, {'slope': -6.0, 'offset': 1.0}, 0.4),
)

SOFTMAX_RELU = truth(
  'softmax', 'relu_without_offset', _relu(5.0), 'relu', (SHARED_RELU,)
)
SOFTMAX_LINEAR = truth(
  'softmax', 'linear', ROUTED_LINEAR, 'linear', (SHARED_LINEAR,)
)
SIGMOID_SPARSE = truth(
  'normalised_sigmoid',
  'relu_without_offset',
  _relu(0.0),
  'relu',
  (SHARED_RELU,),
)
SIGMOID_DENSE = truth(
  'normalised_sigmoid', 'linear', ROUTED_LINEAR, 'relu', (SHARED_RELU,)
)

# Regressions: ours, as the papers that prove rates of least squares (arXiv
# 2402.02952, 2503.03213) state no ground truth. The last gating pair is zero.
NETWORKS = (
  {'inner': 3.0, 'offset': 1.0, 'outer': 4.0},
  {'inner': -2.0, 'offset': 0.5, 'outer': -3.0},
)
RIDGES = ({'slope': 2.0, 'offset': 1.0}, {'slope': -1.0, 'offset': -2.0})
REGRESSION_EXPERTS = {
  'sigmoid': NETWORKS,
  'tanh': NETWORKS,
  'gelu': NETWORKS,
  'linear': RIDGES,
  'quadratic': RIDGES,
  'input_free': ({'offset': 3.0}, {'offset': -2.0}),
}
REGRESSIONS = {
  name: truth(
    'softmax',
    name,
    [(0.5, 1.0, first, 1.0), (0.0, 0.0, second, 1.0)],
    noise=0.3,
  )
  for name, (first, second) in REGRESSION_EXPERTS.items()
}

# Gates that no input reaches: softmax and normalised sigmoid can both express
# them, so that one truth serves both.
CONSTANT_EXPERTS = {
  'linear': ({'slope': 8.0, 'offset': 2.0}, {'slope': -6.0, 'offset': 1.0}),
  'gelu': NETWORKS,
}
CONSTANT_GATES = {
  name: truth(
    'normalised_sigmoid',
    name,
    [(-0.5, 0.0, first, 0.4), (0.5, 0.0, second, 0.4)],
  )
  for name, (first, second) in CONSTANT_EXPERTS.items()
}

# Two groups of two linear experts each.
HIERARCHIES = {
  gate: truth(
    gate,
    'linear',
    [
      (0.5, 1.0, {'slope': 8.0, 'offset': 2.0}, 0.4),
      (0.0, 0.0, {'slope': -6.0, 'offset': 1.0}, 0.4),
      (0.5, -1.0, {'slope': 2.0, 'offset': -9.0}, 0.4),
      (0.0, 0.0, {'slope': -3.0, 'offset': 12.0}, 0.4),
    ],
    extra_gate={'outer_slope': [[1.0], [0.0]], 'outer_bias': [0.2, 0.0]},
  )
  for gate in (
    'softmax_softmax',
    'softmax_laplace',
    'laplace_softmax',
    'laplace_laplace',
  )
}

# Two of three networks at each input. (Of top-1 gates only the sign of a
# difference of scores matters, so that their slopes cannot be estimated.)
TOP_2 = truth(
  'top_2',
  'tanh',
  [
    (0.5, 1.0, NETWORKS[0], 0.4),
    (0.0, -1.0, NETWORKS[1], 0.4),
    (0.0, 0.0, {'inner': 1.0, 'offset': -2.0, 'outer': 9.0}, 0.4),
  ],
)
