"""THEOREMS: what papers prove, and for which gates and experts."""

import dataclasses
from collections.abc import Callable

from moejax.core import errors
from moejax.research.expert_estimation.experts import EXPERTS, Expert
from moejax.research.expert_estimation.gates import GATES, Gate
from moejax.research.expert_estimation.model import Model

# The rate of all losses: O((log n / n) ** 1/2).
RATE = 0.5


@dataclasses.dataclass(frozen=True)
class Theorem:
  """A rate, and the assumptions on gate and routed experts.

  Attributes:
    source: paper and number.
    loss: a name in LOSSES, whose rate is `RATE`.
    gates: names in GATES of the gates that it is about.
    experts: whether an expert meets its assumption.
    assumption: the same in words.
    rates: rates of single parameters in words, for tables.
  """

  source: str
  loss: str
  gates: tuple[str, ...]
  experts: Callable[[Expert], bool]
  assumption: str
  rates: str

  def check(self, model: Model) -> None:
    """Raises InputError if the theorem says nothing about such a model."""
    if model.gate not in [GATES[name] for name in self.gates]:
      raise errors.InputError(
        f'{self.source} excludes the gate {name_of_gate(model.gate)!r}: it is '
        f'about {" and ".join(self.gates)}; leave --gate out, or use a study '
        'without a theorem, such as same_truth'
      )
    if not self.experts(model.routed):
      raise errors.InputError(
        f'{self.source} excludes {name_of_expert(model.routed)!r} experts: it '
        f'asks for {self.assumption}'
      )


STRONG = 'strongly identifiable experts, such as gelu'
PAPER = 'arXiv 2505.10860, theorem'

THEOREMS: dict[str, Theorem] = {
  'softmax_strong': Theorem(
    f'{PAPER} 1',
    'D1',
    ('softmax',),
    lambda expert: expert.identifiable,
    STRONG,
    'exact n^-1/2, over-fitted n^-1/4',
  ),
  'softmax_linear': Theorem(
    f'{PAPER} 2',
    'D2',
    ('softmax',),
    lambda expert: expert == EXPERTS['linear'],
    'linear experts',
    'exact n^-1/2; over-fitted by m atoms, with r(2)=4, r(3)=6: expert slope '
    'and variance n^-1/r, gate slope and expert offset n^-1/2r',
  ),
  'sigmoid_sparse': Theorem(
    f'{PAPER} 3',
    'D3',
    ('normalised_sigmoid_pinned', 'normalised_sigmoid'),
    lambda expert: expert.identifiable,
    STRONG,
    'exact n^-1/2, over-fitted n^-1/4',
  ),
  'sigmoid_dense': Theorem(
    f'{PAPER} 4',
    'D4',
    ('normalised_sigmoid',),
    lambda expert: expert.weakly_identifiable,
    'weakly identifiable experts, which input-free ones are not',
    'shared over-fitted n^-1/4, all routed n^-1/2',
  ),
  'top_k': Theorem(
    f'{PAPER} 5',
    'D5_2',
    ('top_3',),
    lambda expert: expert.identifiable,
    STRONG,
    'as theorem 1, if the gate keeps as many experts as K cells have atoms',
  ),
  'least_squares': Theorem(
    'arXiv 2402.02952, theorem on strongly identifiable experts',
    'L1',
    ('softmax',),
    lambda expert: expert.identifiable,
    STRONG,
    'exact n^-1/2, over-fitted n^-1/4',
  ),
}


def name_of_gate(gate: Gate) -> str:
  """The name of a gate in GATES."""
  return next(name for name, known in GATES.items() if known == gate)


def name_of_expert(expert: Expert) -> str:
  """The name of a kind of expert in EXPERTS."""
  return next(name for name, known in EXPERTS.items() if known == expert)
