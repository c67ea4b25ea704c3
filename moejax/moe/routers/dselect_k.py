"""DSelect-k: k selectors of one expert each, by binary codes."""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp

from moejax.core import fields
from moejax.moe import contract
from moejax.moe.routers import any_number, fixed_k
from moejax.moe.scorers import SCORERS
from moejax.moe.scorers.base import Scorer

# The smallest probability mass on real experts that the penalty, 1 / mass,
# divides by; its gradient is 1 / mass^2.
LEAST_MASS = 1e-3

PER_EXAMPLE = SCORERS['linear'](bias=True, start='uniform')


@dataclasses.dataclass(frozen=True)
class DSelectK(fixed_k.FixedK):
  """A sparse gate with a gradient everywhere (arXiv 2106.03760, section 3).

  With E experts there are m = log2(E), rounded up, bits. Each of k selectors
  has m numbers z and a number a:

  1. S(z) = 0 below -gamma / 2, 1 above gamma / 2, and between them the cubic
     -2 z^3 / gamma^3 + 3 z / (2 gamma) + 1/2: a bit that can be undecided
  2. r_e = the product over bits of S(z_j) where e has a 1, of 1 - S(z_j) where
     it has a 0, most significant bit first
  3. w = sum over selectors of softmax(a)_i r_e of selector i

  The experts with w > 0 are used, with weight w: all of them at first, at most
  k once every bit is decided. So the list has T * E entries; see `any_number`.

  Example, gamma=1, E=4, one selector, z = [.2, -.6]:
    S = [.784, 0]      r = [.216, 0, .784, 0]      for codes 00, 01, 10, 11

  If E is no power of two, some codes name no expert. Their mass is missing in
  w, and a penalty, 1 / (mass on experts), keeps selectors away from them. The
  penalty, and the entropy that drives bits to 0 or 1, are the balance part
  `dselect_entropy`. It reads unreachable_T (0 if E is a power of two) and
  selector_entropy_T from `extra`, both summed over selectors. A mass below
  0.001 counts as 0.001, to bound the penalty's gradient.

  z and a are the scores of the extra scorers `code` and `alpha`; those of the
  layer's own scorer are not used. Linear scorers with a bias are the paper's
  per-example gate, `constant` ones its static gate. Matrices start as in the
  released code, uniformly in +-gamma / 100 for gamma 1, so that every r is near
  1 / E. In the released code the biases start like that too, and a by Keras'
  default; here biases start at 0.

  The probabilities are w over its sum. A selection bias can only take experts
  out: an expert is used if w > 0 and w + bias > 0.

  Attributes:
    k: number of selectors.
    gamma: width of the interval in which S is between 0 and 1.
    code: the scorer of z.
    alpha: the scorer of a.
  """

  experts_are_alike: ClassVar[bool] = False
  follows_selection_bias: ClassVar[bool] = False
  replays: ClassVar[bool] = True
  keeps_experts: ClassVar[str] = (
    "it names experts by the bits of a code, in which an expert's number "
    'cannot change'
  )

  gamma: float = fields.number(1.0, above=0, at_most=1000)
  code: Scorer = fields.choice(SCORERS, PER_EXAMPLE)
  alpha: Scorer = fields.choice(SCORERS, PER_EXAMPLE)

  def extra_scorers(self, num_experts: int) -> dict[str, tuple[Scorer, int]]:
    return {
      'code': (self.code, self.k * num_bits(num_experts)),
      'alpha': (self.alpha, self.k),
    }

  @property
  def experts_per_token(self) -> float:
    """The number once all bits are decided; at first it may be all experts."""
    return self.k

  def __call__(self, inputs: contract.RouterInput) -> contract.Routing:
    num_tokens, num_experts = inputs.logits_TE.shape
    z_TKM = inputs.extra_scores['code'].reshape(num_tokens, self.k, -1)
    r_TKE = codes(smooth_step(z_TKM, self.gamma))[..., :num_experts]
    share_TK = jax.nn.softmax(inputs.extra_scores['alpha'], axis=-1)
    weight_TE = jnp.sum(share_TK[..., None] * r_TKE, axis=1)
    used_TE = (weight_TE > 0) & (inputs.biased(weight_TE) > 0)
    return any_number.send(
      inputs,
      weight_TE,
      used_TE,
      any_number.shares(weight_TE),
      {
        'selector_entropy_T': -jnp.sum(
          r_TKE * jnp.log(r_TKE + 1e-6), axis=(1, 2)
        ),
        'unreachable_T': _penalty(r_TKE),
      },
    )


def num_bits(num_experts: int) -> int:
  """m, the number of bits of an expert's code; at least 1."""
  return max(1, (num_experts - 1).bit_length())


def smooth_step(z: jax.Array, gamma: float) -> jax.Array:
  """Step 1: from 0 to 1 within gamma, with a continuous derivative."""
  u = jnp.clip(z / gamma, -0.5, 0.5)
  return -2 * u**3 + 1.5 * u + 0.5


def codes(bit_TKM: jax.Array) -> jax.Array:
  """Step 2 for all 2^m codes, [T, K, 2^m]."""
  r_TKC = jnp.ones_like(bit_TKM[..., :1])
  for j in range(bit_TKM.shape[-1]):
    bit_TK1 = bit_TKM[..., j : j + 1]
    pair_TKC2 = jnp.stack([r_TKC * (1 - bit_TK1), r_TKC * bit_TK1], axis=-1)
    r_TKC = pair_TKC2.reshape(*bit_TKM.shape[:2], -1)
  return r_TKC


def _penalty(r_TKE: jax.Array) -> jax.Array:
  """The sum over selectors of 1 / (mass on experts), [T]."""
  num_tokens, _, num_experts = r_TKE.shape
  if num_experts == 2 ** num_bits(num_experts):
    return jnp.zeros(num_tokens, jnp.float32)
  mass_TK = jnp.sum(r_TKE, axis=-1)
  return jnp.sum(1 / jnp.maximum(mass_TK, LEAST_MASS), axis=-1)
