"""METHODS: how a model loses experts, by the name that a user writes.

An entry joins an importance, a choice and what becomes of the experts that do
not stay: they are removed, or they are merged into those that do. To add one,
give it a line in METHODS and a row in docs/compress.md.
"""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from moejax.compress import domains, low_rank
from moejax.compress.choice import CHOICES, ONE_EXPERT, RouterNeeds
from moejax.compress.grouping import GROUPINGS
from moejax.compress.importance import IMPORTANCE, Weights, scores
from moejax.compress.means import MEANS
from moejax.compress.merge import MergedLayer, MergeOptions, merge_layer
from moejax.compress.statistics import ExpertStatistics
from moejax.core import errors, table


@dataclasses.dataclass(frozen=True)
class Method:
  """How a model loses experts.

  Attributes:
    summary: what it does, and where it comes from.
    importance: an entry of IMPORTANCE.
    choice: an entry of CHOICES.
    merge: how the experts that do not stay are merged into those that do; None
      removes them.
    shared_router: of a merge, whether the router keeps a row for each old
      expert, so that the members of a group share one merged expert (M-SMoE).
      Otherwise it keeps the rows of the dominant experts.
    low_rank: share of the numbers of each matrix of a merged expert that its
      two factors of low rank have, whose product takes its place; 0 leaves the
      matrices whole.
    training: config keys and values with which the smaller model is trained on.
  """

  summary: str
  importance: str = 'easy_ep'
  choice: str = 'uniform'
  merge: MergeOptions | None = None
  shared_router: bool = False
  low_rank: float = 0.0
  training: tuple[tuple[str, str], ...] = ()

  def check(self) -> None:
    """Raises InputError if a part is not known, or parts do not fit."""
    table.lookup('importance', IMPORTANCE, self.importance)
    table.lookup('choice', CHOICES, self.choice)
    if self.merge is not None:
      table.lookup('grouping', GROUPINGS, self.merge.grouping)
      table.lookup('mean', MEANS, self.merge.mean)
    elif self.shared_router or self.low_rank:
      raise errors.InputError(
        'a router with shared members and matrices of low rank are for merged '
        'experts; this method removes experts'
      )

  @property
  def needs_outputs(self) -> bool:
    """Whether the statistics must have the experts' outputs for all tokens."""
    return self.merge is not None and self.merge.grouping == 'outputs'


def _m_smoe(summary: str, **changes) -> Method:
  """M-SMoE with other merge options, or with another field."""
  options = {field.name for field in dataclasses.fields(MergeOptions)}
  merge = {name: x for name, x in changes.items() if name in options}
  fields = {name: x for name, x in changes.items() if name not in options}
  return Method(
    summary,
    **{
      'importance': 'frequency',
      'choice': 'adaptive',
      'merge': MergeOptions(**merge),
      'shared_router': True,
      **fields,
    },
  )


# Keys with which matrices become low rank and sparse in training, for as many
# steps as the schedule of the paper has (arXiv 2310.01334).
MC_SMOE = (
  ('model.moe.low_rank', '32'),
  ('train.sparsity.name', 'columns'),
  ('train.steps', '10000'),
)

METHODS: dict[str, Method] = {
  'easy_ep': Method('removes experts by EASY-EP (arXiv 2504.06792)'),
  'easy_ep_no_norm': Method(
    'EASY-EP without output norms (arXiv 2504.06792, ablation)',
    'easy_ep_no_norm',
  ),
  'easy_ep_no_token': Method(
    'EASY-EP without token contributions (arXiv 2504.06792, ablation)',
    'easy_ep_no_token',
  ),
  'easy_ep_global': Method(
    'EASY-EP with one budget for all layers (arXiv 2504.06792, ablation)',
    choice='global',
  ),
  'gate_score': Method(
    'removes experts by their sum of gates (arXiv 2504.06792, baseline)',
    'gate_score',
  ),
  'frequency': Method(
    'removes the experts that are activated least (arXiv 2504.06792, baseline)',
    'frequency',
  ),
  'output_norm': Method(
    'removes experts by the norms of their outputs (arXiv 2504.05586)',
    'output_norm',
  ),
  'router_norm': Method(
    "removes experts by the norms of the router's rows (arXiv 2504.05586)",
    'router_norm',
  ),
  'random': Method('removes experts at random: the weakest baseline', 'random'),
  'm_smoe': _m_smoe('merges experts by M-SMoE (arXiv 2310.01334)'),
  'm_smoe_uniform': _m_smoe(
    'M-SMoE with equally many experts in all layers (arXiv 2310.01334)',
    choice='uniform',
  ),
  'm_smoe_unaligned': _m_smoe(
    'M-SMoE without permutation alignment (arXiv 2310.01334)', align=False
  ),
  'm_smoe_plain': _m_smoe(
    'M-SMoE with plain means (arXiv 2310.01334)', mean='plain'
  ),
  'm_smoe_ties': _m_smoe('M-SMoE with means of TIES', mean='ties'),
  'm_smoe_weights': _m_smoe(
    'M-SMoE that groups by weights (arXiv 2310.01334)', grouping='weights'
  ),
  'm_smoe_outputs': _m_smoe(
    'M-SMoE that groups by outputs (arXiv 2310.01334)', grouping='outputs'
  ),
  'm_smoe_cut': _m_smoe(
    'M-SMoE, uniform, with the rows of the dominant experts alone',
    choice='uniform',
    shared_router=False,
  ),
  'm_smoe_low_rank': _m_smoe(
    'M-SMoE, then matrices of low rank without training (arXiv 2310.01334)',
    low_rank=0.1,
  ),
  'easy_ep_merge': Method(
    "EASY-EP's choice; the others merge into it as in M-SMoE",
    merge=MergeOptions(),
  ),
  'mc_smoe': _m_smoe(
    'M-SMoE, then low rank and sparse training (MC-SMoE, arXiv 2310.01334)',
    training=MC_SMOE,
  ),
}


def lookup(name: str) -> Method:
  """The method of a name.

  Raises:
    InputError: there is none; the nearest name is in the message.
  """
  return table.lookup('method', METHODS, name)


@dataclasses.dataclass(frozen=True)
class Selection:
  """Which experts a method keeps.

  Attributes:
    score_NE: importance of each expert; each layer's sum is 1.
    kept_NE: bool, the experts that stay; of a merge, the dominant ones.
    statistics: of all domains together, for a merge.
  """

  score_NE: np.ndarray
  kept_NE: np.ndarray
  statistics: ExpertStatistics


def select(
  method: Method,
  keep: int,
  statistics: Mapping[str, ExpertStatistics],
  weights: Sequence[Weights],
  domain_weights: Mapping[str, float] | None = None,
  *,
  needs: RouterNeeds = ONE_EXPERT,
  seed: int = 0,
) -> Selection:
  """Scores the experts of all layers, and chooses.

  A place that its layer has no expert for (`moe.uneven`) has no logits, and the
  score 0, whatever the importance says.

  Args:
    method: an entry of METHODS.
    keep: experts of each layer; the average over layers for choices that
      divide a budget.
    statistics: by domain.
    weights: arrays of each layer with experts, by name.
    domain_weights: by domain; None counts all domains alike. Domains without a
      weight have no say.
    needs: what the router needs of each layer.
    seed: of scores that are drawn.

  Raises:
    InputError: a number of experts that cannot be kept, or a domain without
      tokens.
  """
  method.check()
  domain_weights = domain_weights or dict.fromkeys(statistics, 1.0)
  pooled = domains.pooled(statistics, domain_weights)
  by_domain = {
    name: scores(method.importance, statistics[name], weights, seed)
    for name in domain_weights
  }
  score_NE = domains.mixed(by_domain, domain_weights)
  exists_NE = np.einsum('nee->ne', pooled.logit_gram_NEE) > 0
  exists_NE |= ~exists_NE.any(axis=1, keepdims=True)
  score_NE = np.where(exists_NE, score_NE, 0)
  kept_NE = CHOICES[method.choice](score_NE, keep, needs)
  return Selection(score_NE, kept_NE, pooled)


def merged(
  method: Method, selection: Selection, weights: Weights, layer: int
) -> MergedLayer:
  """One layer as a method that merges makes it.

  Args:
    method: an entry of METHODS with `merge`.
    selection: of `select`.
    weights: arrays of the layer, by name.
    layer: n, counted among the layers with experts.

  Raises:
    InputError: the method removes experts, or see `merge_layer`.
  """
  if method.merge is None:
    raise errors.InputError('a method that removes experts merges none')
  kept_E = selection.kept_NE[layer]
  one = merge_layer(selection.statistics, weights, layer, kept_E, method.merge)
  if method.low_rank:
    experts = low_rank.approximated(one.experts, method.low_rank)
    one = dataclasses.replace(one, experts=experts)
  return one
