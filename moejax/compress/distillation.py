"""The loss with which a smaller model recovers: its text and the full model.

This is the plain form, with all logits at once. Training computes the same
chunk by chunk (`train/distillation_loss.py`).
"""

from typing import Any, NamedTuple

import numpy as np

from moejax.train.distillation import Distillation

# As published.
M_SMOE = Distillation()


class Losses(NamedTuple):
  """Means over tokens, in nats: total = cross_entropy + weight * divergence."""

  total: Any
  cross_entropy: Any
  divergence: Any


def losses(
  student_TV: Any,
  teacher_TV: Any,
  target_T: Any,
  valid_T: Any,
  distillation: Distillation = M_SMOE,
  xp: Any = np,
) -> Losses:
  """CE + weight * KL(teacher || student) (M-SMoE, arXiv 2310.01334).

  The divergence is between the softmaxes of the logits over the temperature. As
  in M-SMoE's code, it is not multiplied by the temperature's square. That code
  sums it over the tokens of a sequence; here both losses are means over tokens,
  so that the weight does not depend on the length.

  Args:
    student_TV: logits of the smaller model.
    teacher_TV: those of the full model on the same tokens. With JAX, wrap them
      in `jax.lax.stop_gradient`.
    target_T: int, the tokens to predict.
    valid_T: bool, or weights, of the tokens that count; at least one.
    distillation: weight and temperature.
    xp: numpy, or jax.numpy.
  """
  share_T = valid_T / xp.sum(valid_T)
  log_p_TV = _log_softmax(student_TV, xp)
  target_T1 = target_T[:, None]
  chosen_T = xp.take_along_axis(log_p_TV, target_T1, axis=1)[:, 0]
  cross_entropy = -xp.sum(share_T * chosen_T)
  student_TV = _log_softmax(student_TV / distillation.temperature, xp)
  teacher_TV = _log_softmax(teacher_TV / distillation.temperature, xp)
  divergence_T = xp.sum(xp.exp(teacher_TV) * (teacher_TV - student_TV), axis=1)
  divergence = xp.sum(share_T * divergence_T)
  total = cross_entropy + distillation.weight * divergence
  return Losses(total, cross_entropy, divergence)


def _log_softmax(logits_TV: Any, xp: Any) -> Any:
  shifted_TV = logits_TV - xp.max(logits_TV, axis=1, keepdims=True)
  return shifted_TV - xp.log(xp.sum(xp.exp(shifted_TV), axis=1, keepdims=True))
