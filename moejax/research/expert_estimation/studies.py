"""STUDIES: what is estimated, from which truth, with which loss."""

import dataclasses
from collections.abc import Mapping

from moejax.core import errors, table
from moejax.research.expert_estimation import truths
from moejax.research.expert_estimation.gates import GATES
from moejax.research.expert_estimation.model import Model
from moejax.research.expert_estimation.theorems import THEOREMS
from moejax.research.expert_estimation.truths import Truth

EM, LEAST_SQUARES = 'em', 'least_squares'


@dataclasses.dataclass(frozen=True)
class Case:
  """One line of a figure: a model fitted to samples of one truth.

  Attributes:
    truth: what is sampled.
    model: what is fitted.
    loss: a name in LOSSES.
    theorem: a name in THEOREMS; '' where no theorem gives the loss a rate.
    published: the slope that a paper measured; None without one.
    projected: whether the loss compares with the projection of the truth on
      the model, and not with the truth.
  """

  truth: Truth
  model: Model
  loss: str
  theorem: str = ''
  published: float | None = None
  projected: bool = False

  def __post_init__(self):
    if self.theorem:
      THEOREMS[self.theorem].check(self.model)

  @property
  def estimator(self) -> str:
    """EM for a density, least squares for a regression."""
    return LEAST_SQUARES if self.model.regression else EM

  def with_gate(self, name: str) -> 'Case':
    """The case with another gate in the fitted model.

    Raises:
      InputError: the gate is not known, or the theorem excludes it.
    """
    gate = table.lookup('gate', GATES, name)
    return dataclasses.replace(
      self, model=dataclasses.replace(self.model, gate=gate)
    )

  def check_sizes(self, sizes: list[int]) -> None:
    """Raises InputError if a sample is smaller than the model.

    With fewer samples than parameters the likelihood has no maximum but on the
    bounds.
    """
    least = self.model.num_params
    for size in sizes:
      if size < least:
        atoms = self.model.num_routed + self.model.num_shared
        raise errors.InputError(
          f'--sizes={size} is too small: the fitted model has {atoms} atoms '
          f'with {least} free parameters; use sizes of {least} or more'
        )


@dataclasses.dataclass(frozen=True)
class Study:
  """Cases that are shown together.

  Attributes:
    title: what is compared.
    cases: by name.
    source: paper, and whose ground truths they are.
  """

  title: str
  cases: Mapping[str, Case]
  source: str


def fitted(
  truth: Truth, num_routed: int, num_shared: int = 0, gate: str = ''
) -> Model:
  """The truth's form with more atoms, and perhaps another gate."""
  model = dataclasses.replace(
    truth.model, num_routed=num_routed, num_shared=num_shared
  )
  if gate:
    model = dataclasses.replace(model, gate=GATES[gate])
  return model


def _deepseek(
  truth: Truth,
  theorem: str,
  published: float,
  projected: bool = False,
  gate: str = '',
) -> Case:
  """A case of arXiv 2505.10860, appendix G.1: 2 shared and 3 routed atoms."""
  return Case(
    truth,
    fitted(truth, 3, 2, gate),
    THEOREMS[theorem].loss,
    theorem,
    published,
    projected,
  )


SOFTMAX = {
  'softmax_relu': _deepseek(truths.SOFTMAX_RELU, 'softmax_strong', 0.451),
  'softmax_linear': _deepseek(truths.SOFTMAX_LINEAR, 'softmax_linear', 0.517),
}
SIGMOID = {
  'sigmoid_sparse': _deepseek(
    truths.SIGMOID_SPARSE,
    'sigmoid_sparse',
    0.46,
    gate='normalised_sigmoid_pinned',
  ),
  'sigmoid_dense': _deepseek(
    truths.SIGMOID_DENSE, 'sigmoid_dense', 0.552, projected=True
  ),
}


def _regression(expert: str, theorem: str = '', gate: str = 'softmax') -> Case:
  truth = truths.REGRESSIONS[expert]
  if gate != 'softmax':
    truth = truths.with_gate(truth, gate, {'log_temperature': 0.0})
  return Case(truth, fitted(truth, 3), 'L1', theorem)


def _constant(expert: str, gate: str) -> Case:
  truth = truths.CONSTANT_GATES[expert]
  return Case(truth, fitted(truth, 3, 0, gate), 'experts')


def _hierarchy(gate: str) -> Case:
  truth = truths.HIERARCHIES[gate]
  return Case(truth, fitted(truth, 6), 'experts')


def _top_k(k: int, theorem: str = '') -> Case:
  """Four atoms for three: 2 of the cells have up to 3 atoms together."""
  model = fitted(truths.TOP_2, 4, 0, f'top_{k}')
  return Case(truths.TOP_2, model, 'D5_2', theorem)


OURS = 'ground truths are ours: the paper states none'
STUDIES: dict[str, Study] = {
  'deepseekmoe': Study(
    'The four theorems of DeepSeekMoE: shared experts and both gates',
    SOFTMAX | SIGMOID,
    'arXiv 2505.10860, appendix G.1',
  ),
  'deepseekmoe_softmax': Study(
    'Shared experts and softmax gating, as in DeepSeek-V2',
    SOFTMAX,
    'arXiv 2505.10860, appendix G.1',
  ),
  'deepseekmoe_sigmoid': Study(
    'Shared experts and normalised sigmoid gating, as in DeepSeek-V3',
    SIGMOID,
    'arXiv 2505.10860, appendix G.1',
  ),
  'least_squares': Study(
    'Least squares under softmax gating, by the kind of expert',
    {
      'sigmoid': _regression('sigmoid', 'least_squares'),
      'tanh': _regression('tanh', 'least_squares'),
      'gelu': _regression('gelu', 'least_squares'),
      'linear': _regression('linear'),
      'quadratic': _regression('quadratic'),
      'input_free': _regression('input_free'),
    },
    f'arXiv 2402.02952; {OURS}',
  ),
  'dense_to_sparse': Study(
    'Softmax gating with and without a temperature that is estimated',
    {
      'softmax': _regression('sigmoid', 'least_squares'),
      'dense_to_sparse': _regression('sigmoid', gate='dense_to_sparse'),
    },
    f'arXiv 2503.03213 and 2401.13875; {OURS}',
  ),
  'hierarchical': Study(
    'Softmax and Laplace gates at both levels of a hierarchy',
    {gate: _hierarchy(gate) for gate in truths.HIERARCHIES},
    f'arXiv 2410.02935; {OURS}',
  ),
  'same_truth': Study(
    'Softmax against normalised sigmoid, fitted to the same samples',
    {
      f'{gate}_{expert}': _constant(expert, gate)
      for expert in truths.CONSTANT_GATES
      for gate in ('softmax', 'normalised_sigmoid')
    },
    'asked by a reviewer of arXiv 2405.13997; ground truths are ours',
  ),
  'top_k': Study(
    'A top-K gate that keeps fewer experts than a cell has, and enough',
    {'keeps_2': _top_k(2), 'keeps_3': _top_k(3, 'top_k')},
    f'arXiv 2309.13850 and 2505.10860, theorem 5; {OURS}',
  ),
}
