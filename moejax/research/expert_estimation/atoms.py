"""Atoms: the mixing measure of a model, which Voronoi losses compare."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from moejax.research.expert_estimation.experts import Expert
from moejax.research.expert_estimation.model import Model, Params


@dataclasses.dataclass(frozen=True)
class Atoms:
  """G = sum_i weight_i delta(slope_i, expert_i, variance_i), of K atoms.

  Attributes:
    weight_K: omega of shared atoms, exp(beta_0) or sigmoid(beta_0) of routed
      ones.
    expert: the expert's parameters by name, [K, P] each.
    variance_K: tau or nu; None in a regression.
    slope_KD: beta_1; None of shared atoms.
    bias_K: beta_0; None of shared atoms.
  """

  weight_K: np.ndarray
  expert: Mapping[str, np.ndarray]
  variance_K: np.ndarray | None = None
  slope_KD: np.ndarray | None = None
  bias_K: np.ndarray | None = None

  def __len__(self) -> int:
    return len(self.weight_K)

  @property
  def parameters(self) -> np.ndarray:
    """All parameters of each expert, [K, P]."""
    return np.concatenate([*self.expert.values()], axis=1)

  @property
  def places(self) -> np.ndarray:
    """(slope, expert, variance) of each atom, for cells: [K, R]."""
    columns = [self.parameters]
    if self.slope_KD is not None:
      columns.insert(0, self.slope_KD)
    if self.variance_K is not None:
      columns.append(self.variance_K[:, None])
    return np.concatenate(columns, axis=1)

  def take(self, index: Any) -> 'Atoms':
    """Some of the atoms, or all in another order."""
    some = lambda value: None if value is None else value[index]
    return Atoms(
      self.weight_K[index],
      {name: value[index] for name, value in self.expert.items()},
      some(self.variance_K),
      some(self.slope_KD),
      some(self.bias_K),
    )

  def with_experts(self, expert: Expert, eta_KP: np.ndarray) -> 'Atoms':
    """The atoms with other parameters of their experts."""
    width = next(iter(self.expert.values())).shape[1]
    return dataclasses.replace(self, expert=expert.unpack(eta_KP, width))


@dataclasses.dataclass(frozen=True)
class Measures:
  """The mixing measures of both parts of a model.

  Attributes:
    routed: G2.
    shared: G1; None without shared experts.
  """

  routed: Atoms
  shared: Atoms | None = None


def of(model: Model, params: Params) -> Measures:
  """The mixing measures of a model with these parameters."""
  as_array = lambda value: np.asarray(value, np.float64)
  bias_E = as_array(params.gate['bias'])
  routed = Atoms(
    weight_K=model.gate.mass(bias_E),
    expert=model.routed.unpack(as_array(params.routed_EP), model.width),
    variance_K=None
    if model.regression
    else np.exp(as_array(params.log_variance_E)),
    slope_KD=as_array(params.gate['slope']),
    bias_K=bias_E,
  )
  if model.shared is None:
    return Measures(routed)
  logit_S: np.ndarray = as_array(params.shared_logit_S)
  share_S = np.exp(logit_S - np.max(logit_S))
  shared = Atoms(
    weight_K=share_S / share_S.sum(),
    expert=model.shared.unpack(as_array(params.shared_SQ), model.width),
    variance_K=None
    if model.regression
    else np.exp(as_array(params.shared_log_variance_S)),
  )
  return Measures(routed, shared)
