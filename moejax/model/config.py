"""The config of a decoder."""

import dataclasses

from moejax.core import config, errors
from moejax.model import attend, remat
from moejax.moe.config import MoEConfig
from moejax.moe.feed_forwards import FEED_FORWARDS, Routed

DTYPES = ('float32', 'bfloat16')


@dataclasses.dataclass(frozen=True)
class ModelConfig:
  """A decoder-only transformer with dense or mixture-of-experts layers.

  Attributes:
    vocab_size: V, token ids 0 to V - 1; id 0 is padding and start of text.
    max_length: the longest sequence that the model is made for.
    num_layers: all layers.
    first_dense: how many of them, from the first, have a dense feed-forward.
      Where feed_forward is `routed` and `moe.num_experts` is 0 all have.
    width: D.
    num_heads: H query heads of `head_dim` each.
    num_kv_heads: G key-value heads, which divide H; None means H.
    dense_width: hidden width of a dense feed-forward.
    feed_forward: the other layers' kind of feed-forward.
    moe: what it is like where that is `routed`.
    norm_eps: added to the mean square in RMSNorm.
    rope_base: wave length base of rotary positions.
    tie_embeddings: whether the head is the embedding, transposed.
    init_std: standard deviation of every matrix at the start. 0.006 in
      DeepSeekMoE (arXiv 2401.06066, section 4.1.2).
    dtype: type of activations and matmuls; parameters and the router stay
      float32.
    attention: implementation of the attention core; auto goes by the machine.
    remat: what the backward pass computes again rather than keeps.
    scan_unroll: how many equal layers are one step of the loop over layers.
      All of them is fastest for few layers (by a tenth for 4 on CPU); 1
      compiles fastest.
  """

  vocab_size: int = 8192
  max_length: int = 2048
  num_layers: int = 4
  first_dense: int = 0
  width: int = 256
  num_heads: int = 8
  num_kv_heads: int | None = None
  head_dim: int = 32
  dense_width: int = 640
  feed_forward: Routed = config.choice(FEED_FORWARDS, Routed())
  moe: MoEConfig = MoEConfig()
  norm_eps: float = 1e-6
  rope_base: float = 10000.0
  tie_embeddings: bool = False
  init_std: float = 0.006
  dtype: str = config.named(DTYPES, 'float32')
  attention: str = config.named(('auto', *attend.ATTENTIONS), 'auto')
  remat: str = config.named(remat.POLICIES, 'none')
  scan_unroll: int = 1

  @property
  def kv_heads(self) -> int:
    """G."""
    return self.num_heads if self.num_kv_heads is None else self.num_kv_heads

  @property
  def num_dense(self) -> int:
    """Layers with a dense feed-forward."""
    if self.is_routed and not self.moe.num_experts:
      return self.num_layers
    return self.first_dense

  @property
  def num_sparse(self) -> int:
    """The other layers."""
    return self.num_layers - self.num_dense

  @property
  def is_routed(self) -> bool:
    """Whether the others' feed-forward is of the kind `moe` describes."""
    return isinstance(self.feed_forward, Routed)

  @property
  def num_moe(self) -> int:
    """Layers with routed experts: those that have statistics to report."""
    return self.num_sparse if self.is_routed else 0

  def check(self) -> None:
    """Raises InputError if the sizes do not fit together."""
    config.check_at_least_one(
      self,
      'model',
      'vocab_size max_length num_layers width num_heads head_dim dense_width '
      'scan_unroll',
    )
    if self.kv_heads < 1 or self.num_heads % self.kv_heads:
      raise errors.InputError(
        f'model.num_kv_heads={self.kv_heads} does not divide '
        f'model.num_heads={self.num_heads}'
      )
    for name in ('init_std', 'rope_base', 'norm_eps'):
      if getattr(self, name) <= 0:
        raise errors.InputError(
          f'model.{name}={getattr(self, name)} must be > 0'
        )
    if self.head_dim % 2:
      raise errors.InputError(
        f'model.head_dim={self.head_dim} must be even: rotary positions turn '
        'pairs of features'
      )
    if not 0 <= self.first_dense <= self.num_layers:
      raise errors.InputError(
        f'model.first_dense={self.first_dense} must be between 0 and '
        f'model.num_layers={self.num_layers}'
      )
    if self.num_moe:
      self.moe.check()
      _check_causal(self.moe.router, 'model.moe.router')
      _check_causal(self.moe.dispatcher, 'model.moe.dispatcher')
      _check_vocab(self.moe.scorer, 'model.moe.scorer', self.vocab_size)
      _check_vocab(self.moe.router, 'model.moe.router', self.vocab_size)
    elif self.num_sparse:
      self.feed_forward.check()
      _check_causal(self.feed_forward, 'model.feed_forward')


def _check_vocab(part: object, where: str, size: int) -> None:
  """Raises InputError for a table of token ids that is not the model's."""
  for field in dataclasses.fields(part):
    value, place = getattr(part, field.name), f'{where}.{field.name}'
    if dataclasses.is_dataclass(value):
      _check_vocab(value, place, size)
    elif field.name == 'vocab_size' and value < size:
      raise errors.InputError(
        f'{place}={value} is smaller than model.vocab_size={size}; ids beyond '
        f'would share a place: set {place}={size}'
      )


def _check_causal(part: object, where: str) -> None:
  """Raises InputError for what looks at later tokens, unless it is meant."""
  if not getattr(part, 'causal', True) and not part.not_causal:
    raise errors.InputError(
      f'{where}={type(part).__name__} lets later tokens decide over earlier '
      'ones, so a language model would see what it is to predict; take '
      f'another, or set {where}.not_causal=true to train it all the same'
    )
