"""Soft MoE: each input of an expert is a mixture of a sequence's tokens."""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp
from flax import nnx
from jax.sharding import Mesh

from moejax.core import errors, fields, shapes
from moejax.moe.compute import grouped_matmuls
from moejax.moe.config import MoEConfig
from moejax.moe.experts import EXPERTS, Experts, SwiGLU
from moejax.moe.feed_forward import LayerSizes, PreviousLayer, Record, TokenInfo


@dataclasses.dataclass(frozen=True)
class SoftMoEConfig(fields.Checked):
  """The config of a Soft MoE feed-forward.

  Attributes:
    num_experts: E.
    expert_width: hidden width of one expert.
    slots: P, slots of each expert, unless `capacity_factor` is above 0. The
      paper's large runs have one slot and many experts.
    capacity_factor: c > 0 gives each expert P = round(L * c / E) slots for
      sequences of L tokens; with 1 there are as many slots as tokens.
    experts: their kind; the paper has two matrices with GELU and biases.
    not_causal: a causal language model refuses this feed-forward unless this
      says that it is meant.
  """

  keeps_experts: ClassVar[str] = (
    'its experts compute mixtures of all tokens of a sequence, so no token has '
    'a choice from which an expert could be taken'
  )

  reads_rows: ClassVar[bool] = True

  num_experts: int = fields.number(16, at_least=1)
  expert_width: int = fields.number(128, at_least=1)
  slots: int = fields.number(1, at_least=1)
  capacity_factor: float = fields.number(
    0.0, at_least=0, at_most=1000, note='0: as slots says'
  )
  experts: Experts = fields.choice(EXPERTS, SwiGLU())
  not_causal: bool = False

  def check(self) -> None:
    """Does nothing: sizes within the fields' bounds always make a layer."""

  def shrunk(self) -> 'SoftMoEConfig':
    """The same for a model that is shrunk to a laptop's."""
    return dataclasses.replace(
      self,
      num_experts=min(self.num_experts, 8),
      expert_width=min(self.expert_width, 32),
      slots=min(self.slots, 4),
      capacity_factor=min(self.capacity_factor, 2.0),
    )

  @property
  def causal(self) -> bool:
    """Whether a token's output is independent of later tokens."""
    return False

  def used_share(self, row_length: int) -> float:
    """Slots of an expert over tokens of a sequence: the cost per token."""
    return self.num_slots(row_length) / row_length

  def num_slots(self, row_length: int) -> int:
    """P, the slots of each expert for sequences of this length."""
    if not self.capacity_factor:
      return self.slots
    slots = round(row_length * self.capacity_factor / self.num_experts)
    return max(slots, 1)

  def make(
    self, sizes: LayerSizes, moe: MoEConfig, mesh: Mesh, key: jax.Array
  ) -> 'SoftMoE':
    """The module of one layer."""
    del moe, mesh
    return SoftMoE(self, sizes.width, sizes.row_length, sizes.init_std, key)


class SoftMoE(nnx.Module):
  """Soft MoE (arXiv 2308.00951, section 2.1, Algorithm 1, and 2.3).

  For the tokens X of one sequence, E experts with P slots each:

    1. logits   scale * X_norm Phi_norm, with rows of X and columns of Phi of
                length 1 and a learned scale
    2. slots    each slot is a mixture of X, by the softmax of its logits over
                tokens
    3. experts  each expert computes its P slots
    4. output   each token is a mixture of the experts' outputs, by the softmax
                of its logits over all E * P slots

  Padding is in no slot and gets zeros. Documents packed into one sequence share
  its slots.

  NOT CAUSAL: every slot mixes all tokens of its sequence, later ones too.

  The logits' division by lengths adds 1e-6 under the root, as the paper's code
  does. Its optional noise on the logits (off by default) is left out.
  """

  whole_in_decoding: ClassVar[str] = ''

  def __init__(
    self,
    config: SoftMoEConfig,
    width: int,
    row_length: int,
    std: float,
    key: jax.Array,
  ):
    config.check()
    self.config = config
    key_phi, key_experts = jax.random.split(key)
    # Only the direction of its columns has an effect, so a normal start with
    # any standard deviation is the paper's.
    phi_DEP = width**-0.5 * jax.random.normal(
      key_phi, (width, config.num_experts, config.num_slots(row_length))
    )
    self.phi_DEP = nnx.Param(phi_DEP, axes=('unsharded',) * 3, decays=True)
    self.scale = nnx.Param(jnp.ones(()), axes=(), decays=False)
    self.routed = nnx.Dict(
      config.experts.init(
        key_experts, config.num_experts, width, config.expert_width, std
      )
    )

  def __call__(
    self,
    x_BLD: jax.Array,
    tokens: TokenInfo,
    previous: PreviousLayer | None,
    key: jax.Array | None,
    layer: jax.Array | int = 0,
  ) -> tuple[jax.Array, PreviousLayer | None, Record]:
    """See `feed_forward.FeedForward`."""
    del key, layer
    if tokens.routes is not None:
      raise errors.InputError(
        'feed_forward=soft_moe has no routes to record: every expert computes '
        'mixtures of all tokens of a sequence'
      )
    return self.output(x_BLD, tokens.valid_BL), previous, Record()

  def output(self, x_BLD: jax.Array, valid_BL: jax.Array) -> jax.Array:
    """out_BLD; every sequence by itself, zeros for padding."""
    B, _, D = shapes.dims('B L D', x_BLD, D=self.phi_DEP.shape[0]).values()
    _, E, P = self.phi_DEP.shape
    logits_BLEP = self.logits(x_BLD)
    in_BLEP, out_BLEP = mixtures(logits_BLEP, valid_BL)
    slots_EBPD = jnp.einsum(
      'BLEP,BLD->EBPD', in_BLEP.astype(x_BLD.dtype), x_BLD
    )
    w = {name: p[...].astype(x_BLD.dtype) for name, p in self.routed.items()}
    y_RD = self.config.experts(
      w,
      slots_EBPD.reshape(E * B * P, D),
      jnp.full((E,), B * P, jnp.int32),
      grouped_matmuls.Batched(),
    )
    return jnp.einsum(
      'BLEP,EBPD->BLD',
      out_BLEP.astype(x_BLD.dtype),
      y_RD.reshape(E, B, P, D),
    )

  def logits(self, x_BLD: jax.Array) -> jax.Array:
    """float32 logits of every token for every slot, [B, L, E, P]."""
    phi_DEP = self.scale[...] * _unit(self.phi_DEP[...], 0)
    return jnp.einsum(
      'BLD,DEP->BLEP',
      _unit(x_BLD.astype(jnp.float32), -1),
      phi_DEP,
      precision=jax.lax.Precision.HIGHEST,
    )


def mixtures(
  logits_BLEP: jax.Array, valid_BL: jax.Array
) -> tuple[jax.Array, jax.Array]:
  """Each slot's shares of the tokens, and each token's shares of the slots.

  Returns:
    in_BLEP, whose sum over the valid tokens L is 1 (0 where there is none),
    and out_BLEP, whose sum over E and P is 1; both 0 for padding.
  """
  valid_BL11 = valid_BL[:, :, None, None]
  # Not -inf, so that a sequence of padding alone has gradients of zero.
  masked_BLEP = jnp.where(valid_BL11, logits_BLEP, -1e30)
  in_BLEP = jax.nn.softmax(masked_BLEP, axis=1)
  out_BLEP = jax.nn.softmax(logits_BLEP, axis=(2, 3))
  zero_padding = lambda x: jnp.where(valid_BL11, x, 0.0)
  return zero_padding(in_BLEP), zero_padding(out_BLEP)


def _unit(x, axis):
  return x * jax.lax.rsqrt(jnp.sum(x**2, axis=axis, keepdims=True) + 1e-6)
