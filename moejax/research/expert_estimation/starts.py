"""STARTS: where an estimator begins, by name."""

import dataclasses
from collections.abc import Callable

import numpy as np

from moejax.research.expert_estimation.data import Sample
from moejax.research.expert_estimation.experts import Expert
from moejax.research.expert_estimation.gates import (
  Hierarchical,
  NormalisedSigmoid,
)
from moejax.research.expert_estimation.model import Model, Params
from moejax.research.expert_estimation.truths import Truth

# Noise of a start near the truth: NOISE n ** -POWER, and for the logarithms of
# variances NOISE n ** -VARIANCE_POWER. The powers are those of unpublished code
# for arXiv 2505.10860; they are slower than any rate that is to be measured.
NOISE = 0.1
POWER = 0.083
VARIANCE_POWER = 0.25

Start = Callable[[Model, Truth, Sample, np.random.Generator], Params]


def near_truth(
  model: Model, truth: Truth, sample: Sample, rng: np.random.Generator
) -> Params:
  """The true atoms and copies of some of them, with noise.

  Each true atom is there once, and the model's further atoms are copies of true
  atoms drawn at random. Copies share the weight of their atom. In a hierarchy
  all true atoms have as many copies as possible alike.

  Args:
    model: the model to estimate, of at least the true number of atoms.
    truth: the truth.
    sample: of which the number of samples sets the noise.
    rng: random numbers.
  """
  num_true = len(truth.measures.routed)
  copied_E = copies(num_true, model.num_routed, rng)
  if isinstance(model.gate, Hierarchical):
    # Evenly, so that the copies of an atom are in its group.
    copied_E = np.arange(model.num_routed) * num_true // model.num_routed
  count_E = np.bincount(copied_E)[copied_E]
  scale = NOISE * len(sample) ** -POWER
  variance_scale = NOISE * len(sample) ** -VARIANCE_POWER
  noise = lambda shape, s: s * rng.standard_normal(shape)
  gate = {}
  for name, shape in model.gate.shapes(model.num_routed, model.width).items():
    value = np.zeros(shape)
    if name == 'bias':
      weight_E = truth.measures.routed.weight_K[copied_E] / count_E
      value = of_mass(model, weight_E)
    elif name == 'slope':
      value = truth.params.gate['slope'][copied_E]
    elif name in truth.params.gate:
      value = np.asarray(truth.params.gate[name], np.float64)
    # A pinned slope is that of its true atom; a pinned bias is a scale.
    noisy = ~model.gate.pinned(model.num_routed, model.width)[name]
    gate[name] = value + noisy * noise(shape, scale)
  routed_EP = _parameters(model.routed, truth.model.routed, model.width)
  routed_EP = routed_EP(truth.params.routed_EP)[copied_E]
  params = Params(
    gate=gate,
    routed_EP=routed_EP + noise(routed_EP.shape, scale),
    log_variance_E=truth.params.log_variance_E[copied_E]
    + noise(len(copied_E), variance_scale),
    shared_SQ=np.zeros((0, 0)),
    shared_log_variance_S=np.zeros(0),
    shared_logit_S=np.zeros(0),
  )
  if model.shared is None or truth.model.shared is None:
    return params
  copied_S = copies(truth.model.num_shared, model.num_shared, rng)
  count_S = np.bincount(copied_S)[copied_S]
  shared_SQ = truth.params.shared_SQ[copied_S]
  return dataclasses.replace(
    params,
    shared_SQ=shared_SQ + noise(shared_SQ.shape, scale),
    shared_log_variance_S=truth.params.shared_log_variance_S[copied_S]
    + noise(len(copied_S), variance_scale),
    shared_logit_S=truth.params.shared_logit_S[copied_S]
    - np.log(count_S)
    + noise(len(copied_S), scale),
  )


def blind(
  model: Model, truth: Truth, sample: Sample, rng: np.random.Generator
) -> Params:
  """A start that knows the sample and not the truth.

  Gates begin almost equal, parameters of experts normal with the deviation of
  y, and variances with that of y.
  """
  del truth
  scale = max(float(np.std(sample.y_N)), 1e-6)
  normal = lambda shape, s: s * rng.standard_normal(shape)
  shapes = model.gate.shapes(model.num_routed, model.width)
  num_shared = model.num_shared
  size = 0 if model.shared is None else model.shared.size(model.width)
  routed_shape = (model.num_routed, model.routed.size(model.width))
  return Params(
    gate={
      name: normal(shape, 0.5)
      * ~model.gate.pinned(model.num_routed, model.width)[name]
      for name, shape in shapes.items()
    },
    routed_EP=normal(routed_shape, scale),
    log_variance_E=np.full(model.num_routed, 2 * np.log(scale)),
    shared_SQ=normal((num_shared, size), scale),
    shared_log_variance_S=np.full(num_shared, 2 * np.log(scale)),
    shared_logit_S=normal(num_shared, 0.1),
  )


STARTS: dict[str, Start] = {'near_truth': near_truth, 'blind': blind}


def copies(num_true: int, num: int, rng: np.random.Generator) -> np.ndarray:
  """The true atom that each of `num` fitted atoms begins at, sorted, [num]."""
  if num < num_true:
    return np.arange(num)
  extra = rng.integers(0, num_true, num - num_true)
  return np.sort(np.concatenate([np.arange(num_true), extra]))


def of_mass(model: Model, weight_E: np.ndarray) -> np.ndarray:
  """The biases with which the atoms of a gate have these weights, [E]."""
  if isinstance(model.gate, NormalisedSigmoid):
    weight_E = np.clip(weight_E, 1e-6, 1 - 1e-6)
    return np.log(weight_E) - np.log1p(-weight_E)
  return np.log(weight_E)


def _parameters(
  expert: Expert, true_expert: Expert, width: int
) -> Callable[[np.ndarray], np.ndarray]:
  """From the parameters of true experts to a start of the model's kind.

  Parts of one name are taken over; the others begin at 1, where no derivative
  of a network of two layers vanishes.
  """

  def of(eta_KP: np.ndarray) -> np.ndarray:
    known = true_expert.unpack(eta_KP, width)
    return np.concatenate(
      [
        known.get(name, np.ones((len(eta_KP), size)))
        for name, size in expert.parts(width).items()
      ],
      axis=1,
    )

  return of
