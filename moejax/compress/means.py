"""MEANS: one expert from the experts of a group, by the name of the mean.

An entry is a function (weights, frequency_M) -> the merged expert's arrays.

  weights       by name, arrays of M experts, [M, ...]; the dominant expert is
                the first, and hidden units are aligned
  frequency_M   how often each of them was activated

All are computed in float64 and stored in the type of the weights. Equal experts
are not changed, to the bit: every mean is the first expert plus something of
the others' differences from it.
"""

import math
from collections.abc import Callable, Mapping

import numpy as np

from moejax.compress.statistics import normalised

Group = Mapping[str, np.ndarray]
Mean = Callable[[Group, np.ndarray], dict[str, np.ndarray]]

# The share of each difference that TIES keeps (arXiv 2306.01708, section 4).
TIES_DENSITY = 0.2


def frequency(weights: Group, frequency_M: np.ndarray) -> dict[str, np.ndarray]:
  """The mean sum alpha_i E_i / sum alpha_i (M-SMoE, arXiv 2310.01334).

  Experts that were never activated have equal weights.
  """
  share_M = normalised(np.asarray(frequency_M)[None])[0]
  return _plus(weights, lambda step_MP: share_M[1:] @ step_MP)


def plain(weights: Group, frequency_M: np.ndarray) -> dict[str, np.ndarray]:
  """The mean sum E_i / M of M experts."""
  num = len(frequency_M)
  return _plus(weights, lambda step_MP: step_MP.sum(axis=0) / num)


def ties(
  weights: Group, frequency_M: np.ndarray, density: float = TIES_DENSITY
) -> dict[str, np.ndarray]:
  """The dominant expert, and what the others' largest differences agree on.

  Trim, elect sign, disjoint mean (TIES, arXiv 2306.01708, section 4), with the
  dominant expert in the place of the common start of fine-tuned models:

    1. of the differences of each other expert, the `density` largest by
       absolute value stay, counted over all its weights; the rest become 0
    2. the sign of each weight's difference is that of their sum
    3. the differences that are not 0 and have that sign are averaged, and added

  Frequencies decide nothing beyond which expert is dominant.
  """
  del frequency_M

  def agreed(step_MP: np.ndarray) -> np.ndarray:
    if not step_MP.size:
      return np.zeros(step_MP.shape[1])
    num = max(1, math.ceil(density * step_MP.shape[1]))
    size_MP = np.abs(step_MP)
    least_M1 = np.partition(size_MP, -num, axis=1)[:, -num, None]
    step_MP = np.where(size_MP >= least_M1, step_MP, 0)
    agrees_MP = step_MP * np.sign(step_MP.sum(axis=0)) > 0
    total_P = np.where(agrees_MP, step_MP, 0).sum(axis=0)
    return total_P / np.maximum(agrees_MP.sum(axis=0), 1)

  return _plus(weights, agreed)


MEANS: dict[str, Mean] = {
  'frequency': frequency,
  'plain': plain,
  'ties': ties,
}


def _plus(
  weights: Group, change: Callable[[np.ndarray], np.ndarray]
) -> dict[str, np.ndarray]:
  """The first expert plus `change` of the others' differences from it.

  `change` takes [M - 1, P], a row of all weights for each other expert, and
  returns [P].
  """
  wide = {name: np.asarray(x, np.float64) for name, x in weights.items()}
  step_MP = np.concatenate(
    [(x[1:] - x[0]).reshape(len(x) - 1, x[0].size) for x in wide.values()],
    axis=1,
  )
  change_P = change(step_MP)
  ends = np.cumsum([x[0].size for x in wide.values()])
  changes = np.split(change_P, ends[:-1])
  merged = {}
  for (name, x), flat_step in zip(wide.items(), changes, strict=True):
    step = flat_step.reshape(x[0].shape)
    # -0.0 + 0.0 is 0.0: a number without a change keeps its bits.
    total = np.where(step == 0, x[0], x[0] + step)
    merged[name] = total.astype(weights[name].dtype)
  return merged
