"""EXPERTS: every kind of experts by its name in a config.

A kind is the shape of the weights and a pure function of them over grouped
rows; see `base`.
"""

from moejax.moe.experts import autonomous, swiglu, two_matrix
from moejax.moe.experts.base import Experts, Multiply
from moejax.moe.experts.swiglu import SwiGLU

__all__ = ['EXPERTS', 'Experts', 'Multiply', 'SwiGLU']

EXPERTS = {
  'autonomous_swiglu': autonomous.AutonomousSwiGLU,
  'clamped_swiglu': swiglu.ClampedSwiGLU,
  'swiglu': SwiGLU,
  'two_matrix': two_matrix.TwoMatrix,
}
