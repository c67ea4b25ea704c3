"""One member of each class of parameters that give the same density.

Theory removes these classes by an assumption, such as "the last gating pair is
zero". A fit does not keep to it, and some ground truths of papers break it, so
that fitted measures are moved within their class before they are compared:

* a softmax gate is the same after one vector is added to all slopes, and one
  number to all biases
* a normalised sigmoid of inputs that no slope reads is the same after all
  sigmoids are multiplied by one number
* a ReLU expert is the same after (inner, offset) is multiplied by c > 0 and
  outer divided by it (`experts.FeedForward.like`)
"""

import dataclasses

import numpy as np

from moejax.research.expert_estimation import voronoi
from moejax.research.expert_estimation.atoms import Atoms, Measures
from moejax.research.expert_estimation.experts import Expert
from moejax.research.expert_estimation.gates import Gate, NormalisedSigmoid
from moejax.research.expert_estimation.model import Model

# Cells depend on slopes, and the common slope on cells: so often both.
ROUNDS = 3
LARGEST_SHARE = 1 - 1e-9


def aligned(model: Model, fitted: Measures, truth: Measures) -> Measures:
  """The fitted measures, moved within their classes towards the true ones."""
  routed = _experts(model.routed, fitted.routed, truth.routed)
  routed = _gate(model.gate, routed, truth.routed)
  if fitted.shared is None or truth.shared is None or model.shared is None:
    return Measures(routed)
  return Measures(routed, _experts(model.shared, fitted.shared, truth.shared))


def _experts(expert: Expert, fitted: Atoms, truth: Atoms) -> Atoms:
  """Each expert as that member of its class that is nearest to a true one."""
  nearest = []
  for eta_P in fitted.parameters:
    members = [expert.like(eta_P, true_P) for true_P in truth.parameters]
    distances = [
      np.linalg.norm(member - true_P)
      for member, true_P in zip(members, truth.parameters, strict=True)
    ]
    nearest.append(members[int(np.argmin(distances))])
  return fitted.with_experts(expert, np.stack(nearest))


def _gate(gate: Gate, fitted: Atoms, truth: Atoms) -> Atoms:
  if gate.translates:
    return translated(fitted, truth)
  if isinstance(gate, NormalisedSigmoid) and not np.any(truth.slope_KD):
    return rescaled(fitted, truth)
  return fitted


def translated(fitted: Atoms, truth: Atoms) -> Atoms:
  """A softmax gate with the truth's total weight and mean slope.

  The mean is weighted, over the differences between atoms and the true atoms
  of their cells; it vanishes afterwards.
  """
  if fitted.slope_KD is None or truth.slope_KD is None:
    return fitted
  if fitted.bias_K is None:
    return fitted
  # The first cells are those of experts and variances alone.
  blind = lambda atoms: dataclasses.replace(atoms, slope_KD=None)
  cells = voronoi.cells(blind(fitted), blind(truth))
  share_K = np.exp(fitted.bias_K - fitted.bias_K.max())
  share_K /= share_K.sum()
  for _ in range(ROUNDS):
    true_KD = np.zeros_like(fitted.slope_KD)
    for j, index in enumerate(cells):
      true_KD[index] = truth.slope_KD[j]
    shift_D = share_K @ (fitted.slope_KD - true_KD)
    fitted = dataclasses.replace(fitted, slope_KD=fitted.slope_KD - shift_D)
    cells = voronoi.cells(fitted, truth)
  weight_K = share_K * truth.weight_K.sum()
  return dataclasses.replace(
    fitted, weight_K=weight_K, bias_K=np.log(np.maximum(weight_K, 1e-300))
  )


def rescaled(fitted: Atoms, truth: Atoms) -> Atoms:
  """A normalised sigmoid with the truth's sum of sigmoids.

  A weight that would pass 1, which no sigmoid has, is kept just below it.
  """
  scale = float(truth.weight_K.sum()) / float(fitted.weight_K.sum())
  weight_K = np.minimum(fitted.weight_K * scale, LARGEST_SHARE)
  return dataclasses.replace(
    fitted,
    weight_K=weight_K,
    bias_K=np.log(weight_K) - np.log1p(-weight_K),
  )
