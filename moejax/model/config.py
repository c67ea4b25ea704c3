"""The config of a decoder."""

import dataclasses
from typing import Any

from moejax.core import errors, fields, quantization, resume
from moejax.model import remat
from moejax.model.attention import dot_product
from moejax.model.attention.context import (
  CONTEXT_PARALLEL,
  AllGather,
  ContextParallel,
)
from moejax.model.attention.heads import HEADS, QK_NORMS, Grouped
from moejax.model.attention.rope import Rope
from moejax.model.pipeline import Pipeline
from moejax.model.scales import Scales
from moejax.moe.config import MoEConfig
from moejax.moe.feed_forward import FeedForwardConfig
from moejax.moe.feed_forwards import FEED_FORWARDS, Routed
from moejax.vision.front_end import VISIONS, TextOnly

DTYPES = ('float32', 'bfloat16')


@dataclasses.dataclass(frozen=True)
class ModelConfig(fields.Checked):
  """A decoder-only transformer with dense or mixture-of-experts layers.

  Attributes:
    vocab_size: V, token ids 0 to V - 1; id 0 is padding and start of text.
    max_length: length of the longest sequence, in tokens.
    num_layers: number of layers.
    first_dense: number of first layers that have a dense feed-forward. If
      `feed_forward` is `routed` and `moe.num_experts` is 0, all layers do.
    moe_every: size of the groups of layers after the first dense ones. The last
      layer of each group has `feed_forward`, the others are dense; 2 stands for
      every other layer.
    width: D, the features of a token between layers.
    num_heads: H, number of query heads.
    num_kv_heads: G, number of key-value heads, which divides H; None means H.
    head_dim: K, width of a head.
    dense_width: hidden width of a dense feed-forward.
    feed_forward: kind of feed-forward in layers that are not dense.
    moe: mixture of experts, for the kind `routed`.
    vision: what the model reads besides text.
    heads: projections from activations to queries, keys and values.
    qk_norm: norm of queries and keys before rotary positions: none, each head
      by itself (Qwen3), or all heads together (OLMoE).
    qk_norm_after_rope: whether that norm is after rotary positions (Hunyuan).
    qkv_bias: whether the projections to queries, keys and values have biases.
    out_bias: whether the projection of attention's output has a bias.
    sinks: whether every head has a learned score of a key without a value, so
      that its weights may sum to less than 1 (gpt-oss).
    windows: number of tokens that attention sees in each layer, the token
      itself included; 0 for all. Layers beyond the list repeat it: (128, 0) has
      a window in every other layer.
    norm_eps: constant added to the mean square in RMSNorm.
    norm_after: whether the outputs of attention and feed-forward are normalised
      before they are added, and their inputs not (OLMo 2, arXiv 2501.00656,
      section 3.2).
    scales: constants that multiply parts of the model.
    rope: rotary positions.
    tie_embeddings: whether the head is the embedding, transposed.
    mtp_layers: modules of multi-token prediction (`model/mtp.py`), used in
      training only: each predicts one token further ahead, with a layer like
      the last one.
    init_std: standard deviation of every matrix at the start. 0.006 in
      DeepSeekMoE (arXiv 2401.06066, section 4.1.2).
    dtype: type of activations and matmuls; parameters and the router stay
      float32. auto: the type in which the machine that begins the run
      multiplies faster (`model/compute_dtype.py`); the run keeps it.
    quantization: the type in which the products of attention's projections, of
      feed-forwards and of experts are computed, an entry of QUANTIZATIONS
      (`core/quantization.py`). Weights stay float32, so a run may go on with
      another one.
    attention: implementation of the attention core; auto chooses by platform.
    context_parallel: attention of rows whose length is split over the mesh's
      `context` axis; without effect where that axis is 1.
    pipeline: layers that are split over the mesh's `stage` axis; without effect
      where that axis is 1.
    remat: what the backward pass recomputes instead of keeping.
    scan_unroll: number of groups of layers in one step of the loop over layers.
      Unrolling all is fastest for few layers (by a tenth for 4 on CPU); 1
      compiles fastest.
    token_chunks: number of chunks in which a device's rows pass a feed-forward,
      one after the other; must divide the rows. The memory of a layer's
      assignments is then that of one chunk. Micro-batches save this memory too,
      but gather weights once per micro-batch. Gradients of experts are summed
      over chunks in `dtype`.
  """

  vocab_size: int = fields.number(8192, at_least=1)
  max_length: int = fields.number(2048, at_least=1)
  num_layers: int = fields.number(4, at_least=1, at_most=10**4)
  first_dense: int = fields.number(0, at_least=0, at_most=10**4)
  moe_every: int = fields.number(1, at_least=1, at_most=10**4)
  width: int = fields.number(256, at_least=1)
  num_heads: int = fields.number(8, at_least=1)
  num_kv_heads: int | None = fields.number(None, at_least=1)
  head_dim: int = fields.number(32, at_least=1)
  dense_width: int = fields.number(640, at_least=1)
  feed_forward: FeedForwardConfig = fields.choice(FEED_FORWARDS, Routed())
  moe: MoEConfig = MoEConfig()
  vision: TextOnly = fields.choice(VISIONS, TextOnly())
  heads: Grouped = fields.choice(HEADS, Grouped())
  qk_norm: str = fields.named(QK_NORMS, 'none')
  qk_norm_after_rope: bool = False
  qkv_bias: bool = False
  out_bias: bool = False
  sinks: bool = False
  windows: tuple[int, ...] = fields.number((), at_least=0, note='0: all tokens')
  norm_eps: float = fields.number(1e-6, above=0, at_most=1)
  norm_after: bool = False
  scales: Scales = Scales()
  rope: Rope = Rope()
  tie_embeddings: bool = False
  mtp_layers: int = fields.number(0, at_least=0, at_most=100, note='0: none')
  init_std: float = fields.number(0.006, above=0, at_most=10)
  dtype: str = resume.key(
    resume.CHOSEN, fields.named((resume.AUTO, *DTYPES), 'float32')
  )
  quantization: str = resume.key(
    resume.ROUNDING,
    fields.named(quantization.QUANTIZATIONS, quantization.NONE),
  )
  attention: str = resume.key(
    resume.ROUNDING,
    fields.named(
      ('auto', *dot_product.ATTENTIONS, *dot_product.KERNELS), 'auto'
    ),
  )
  context_parallel: ContextParallel = resume.key(
    resume.ROUNDING, fields.choice(CONTEXT_PARALLEL, AllGather())
  )
  pipeline: Pipeline = resume.key(resume.ROUNDING, Pipeline())
  remat: str = resume.key(resume.ROUNDING, fields.named(remat.POLICIES, 'none'))
  scan_unroll: int = resume.key(
    resume.ROUNDING, fields.number(1, at_least=1, at_most=10**4)
  )
  token_chunks: int = resume.key(
    resume.ROUNDING, fields.number(1, at_least=1, at_most=10**6)
  )

  @property
  def kv_heads(self) -> int:
    """G, the number of key-value heads."""
    return self.num_heads if self.num_kv_heads is None else self.num_kv_heads

  @property
  def num_dense(self) -> int:
    """Number of layers with a dense feed-forward."""
    if self.is_routed and not self.moe.num_experts:
      return self.num_layers
    return self.first_dense + (self.moe_every - 1) * self._groups

  @property
  def _groups(self) -> int:
    return (self.num_layers - self.first_dense) // self.moe_every

  @property
  def kinds(self) -> tuple[str, ...]:
    """'dense' or 'moe' for each layer, first layer first."""
    if not self.num_sparse:
      return ('dense',) * self.num_layers
    group = ('dense',) * (self.moe_every - 1) + ('moe',)
    return ('dense',) * self.first_dense + group * self._groups

  @property
  def mtp_kind(self) -> str:
    """Kind of the layers of multi-token prediction."""
    return 'moe' if self.num_sparse else 'dense'

  @property
  def num_sparse(self) -> int:
    """Number of layers that are not dense."""
    return self.num_layers - self.num_dense

  @property
  def is_routed(self) -> bool:
    """Whether layers that are not dense have routed experts, as in `moe`."""
    return isinstance(self.feed_forward, Routed)

  @property
  def num_moe(self) -> int:
    """Number of layers with routed experts, which report statistics."""
    return self.num_sparse if self.is_routed else 0

  def check(self) -> None:
    """Raises InputError if the sizes do not fit together."""
    if self.num_heads % self.kv_heads:
      raise errors.InputError(
        f'model.num_kv_heads={self.kv_heads} does not divide '
        f'model.num_heads={self.num_heads}'
      )
    self.heads.check(self)
    _check_part(self.vision, 'model.vision')
    if self.qk_norm_after_rope and self.qk_norm == 'none':
      raise errors.InputError(
        'model.qk_norm_after_rope=True says when queries and keys are '
        'normalised, but model.qk_norm=none: set model.qk_norm=head or width, '
        'or model.qk_norm_after_rope=false'
      )
    if self.first_dense > self.num_layers:
      raise errors.InputError(
        f'model.first_dense={self.first_dense} must be at most '
        f'model.num_layers={self.num_layers}'
      )
    if (self.num_layers - self.first_dense) % self.moe_every:
      raise errors.InputError(
        f'model.moe_every={self.moe_every} does not divide the '
        f'{self.num_layers - self.first_dense} layers after '
        f'model.first_dense={self.first_dense}'
      )
    if self.mtp_layers and self.vision != TextOnly():
      raise errors.InputError(
        f'model.mtp_layers={self.mtp_layers}: modules of multi-token '
        'prediction read tokens alone; set model.mtp_layers=0, or '
        'model.vision.name=none'
      )
    if self.num_moe:
      _check_part(self.moe, 'model.moe')
      self._check_experts_by_layer()
      _check_causal(self.moe, 'router', 'model.moe')
      _check_causal(self.moe, 'dispatcher', 'model.moe')
      _check_vocab(self.moe.scorer, 'model.moe.scorer', self.vocab_size)
      _check_vocab(self.moe.router, 'model.moe.router', self.vocab_size)
    elif self.num_sparse:
      _check_part(self.feed_forward, 'model.feed_forward')
      _check_causal(self, 'feed_forward', 'model')

  def check_used(self) -> None:
    """Raises InputError for values that a new run would ignore.

    A run that has begun keeps them, so only new ones are checked.
    """
    if len(self.windows) > self.num_layers:
      kept = ','.join(map(str, self.windows[: self.num_layers]))
      raise errors.InputError(
        f'model.windows has {len(self.windows)} numbers for '
        f'model.num_layers={self.num_layers}: set model.windows={kept}'
      )
    self.vision.check_used()
    if self.num_moe:
      try:
        self.moe.check_used()
      except errors.InputError as e:
        raise errors.InputError(f'model.moe.{e}') from None

  def _check_experts_by_layer(self) -> None:
    """Raises InputError if `moe.experts_by_layer` is of other layers."""
    numbers = self.moe.experts_by_layer
    if numbers and len(numbers) != self.num_moe:
      raise errors.InputError(
        f'model.moe.experts_by_layer has {len(numbers)} numbers, but the model '
        f'has {self.num_moe} layers with experts'
      )
    if numbers and self.mtp_layers:
      raise errors.InputError(
        f'model.mtp_layers={self.mtp_layers}: model.moe.experts_by_layer has '
        'no number for the layers of multi-token prediction; set '
        'model.mtp_layers=0'
      )


def _check_part(
  part: MoEConfig | FeedForwardConfig | TextOnly, where: str
) -> None:
  """Checks a node of the config; errors get the whole path of the key."""
  try:
    part.check()
  except errors.InputError as e:
    raise errors.InputError(f'{where}.{e}') from None


def _check_vocab(part: Any, where: str, size: int) -> None:
  """Raises InputError for a table by token id that is too small."""
  for field in dataclasses.fields(part):
    value, place = getattr(part, field.name), f'{where}.{field.name}'
    if dataclasses.is_dataclass(value):
      _check_vocab(value, place, size)
    elif field.name == 'vocab_size' and value < size:
      raise errors.InputError(
        f'{place}={value} is smaller than model.vocab_size={size}; ids beyond '
        f'would share a place: set {place}={size}'
      )


def _check_causal(node: Any, field: str, where: str) -> None:
  """Raises InputError if later tokens affect earlier ones' routing.

  Unless `not_causal` is set.

  Args:
    node: a node of the config.
    field: its field with the part that may not be causal.
    where: dotted path of the node.
  """
  part, where = getattr(node, field), f'{where}.{field}'
  if not getattr(part, 'causal', True) and not part.not_causal:
    raise errors.InputError(
      f'{where}={fields.chosen(node, field)} lets later tokens decide over '
      'earlier ones, so a language model would see what it is to predict; take '
      f'another, or set {where}.not_causal=true to train it all the same'
    )
