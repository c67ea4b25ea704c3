"""The decoder: tokens to embeddings, through the trunk, to logits.

  embed     token_BL -> x_BLD      a row of a table for each token
  trunk     x_BLD -> x_BLD         all layers, `trunk.py`; then a norm
  logits    x_BLD -> logits_BLV    the output head

Training and evaluation use the hidden states before the head, because
`train.cross_entropy` computes the logits chunk by chunk.
"""

import dataclasses

import flax.struct
import jax
import jax.numpy as jnp
from flax import nnx
from jax.sharding import Mesh

from moejax.core import errors, linear, scopes, shapes, table
from moejax.model import block, init, mtp, norm, pipeline
from moejax.model import trunk as trunks
from moejax.model.attention import context
from moejax.model.attention.cache import KVCache
from moejax.model.config import ModelConfig
from moejax.model.stages import Stage
from moejax.moe import feed_forward
from moejax.moe.feed_forwards import FEED_FORWARDS
from moejax.moe.replay import Replay
from moejax.moe.routes import RoutesRequest
from moejax.parallel import rules
from moejax.vision.inputs import RowImages

# Folded into the key of a step, for the front end; layers fold in their number.
_VISION = 2**20


@flax.struct.dataclass
class DecoderOutput:
  """Hidden states before the head, and the record of the layers with experts.

  Attributes:
    x_BLD: normalised hidden states in the compute type.
    record: record of the layers with experts, a first axis for the layers;
      empty dictionaries if no layer has experts.
    vision: the same of the front end's layers, by the part that has them.
  """

  x_BLD: jax.Array
  record: feed_forward.Record
  vision: dict[str, feed_forward.Record] = flax.struct.field(
    default_factory=dict
  )


class Decoder(nnx.Module):
  """Embedding, trunk, norm and head of a decoder-only transformer.

  Layers of one kind ('dense', 'moe') are stored as one stack. The layers of
  multi-token prediction are the last of their kind's stack.
  """

  def __init__(self, config: ModelConfig, mesh: Mesh, key: jax.Array):
    config.check()
    context.check(config, mesh)
    pipeline.check(config, mesh)
    keys = jax.random.split(key, 4)
    self.config = config
    self.mesh = mesh
    shape = (config.vocab_size, config.width)
    self.embed_VD = init.normal(config, keys[0], shape, ('vocab', 'embed'))
    num_mtp = dict.fromkeys(('dense', 'moe'), 0)
    num_mtp[config.mtp_kind] = config.mtp_layers
    if config.num_dense:
      count = config.num_dense + num_mtp['dense']
      self.dense = trunks.stack(config, mesh, keys[1], count, moe=False)
    if config.num_sparse:
      count = config.num_sparse + num_mtp['moe']
      self.moe = trunks.stack(config, mesh, keys[2], count, moe=True)
    if config.mtp_layers:
      self.mtp = mtp.stack(config, jax.random.fold_in(key, len(keys)))
    self.norm = norm.RMSNorm(config.width, config.norm_eps)
    if not config.tie_embeddings:
      self.head_DV = init.normal(
        config, keys[3], shape[::-1], ('embed', 'vocab')
      )
    key_vision = jax.random.fold_in(key, len(keys) + 1)
    self.vision = config.vision.make(config.width, mesh, key_vision)

  def __call__(  # noqa: PLR0913 (most are named by few callers)
    self,
    token_BL: jax.Array,
    segment_BL: jax.Array,
    position_BL: jax.Array,
    row_B: jax.Array | None = None,
    key: jax.Array | None = None,
    *,
    images: RowImages | None = None,
    routes: RoutesRequest | None = None,
    replay: Replay | None = None,
  ) -> DecoderOutput:
    """Runs all layers.

    Args:
      token_BL: int32 ids below vocab_size.
      segment_BL: int32, number of each token's document in its row; 0 for
        padding.
      position_BL: int32, position of each token in its document.
      row_B: int32, index of each row in the global batch; None means 0, 1, ...
        Routers draw noise by it.
      key: random key of this step; None means no noise (evaluation).
      images: of the rows, for a model with `config.vision`; None means that no
        token is an image token.
      routes: what to record of the routes; `record.routes` has them, [N, ...]
        for the N layers with experts, or `record.calibration` the sums over
        their tokens. None records nothing.
      replay: recorded experts, which take the place of the routers' choices.

    Raises:
      InputError: routes of a model without them, or a replay that does not fit
        the model or the batch.
    """
    self._check_routes(token_BL, routes, replay)
    tokens = self.token_context(token_BL, segment_BL, position_BL, row_B)
    tokens = dataclasses.replace(tokens, routes=routes, replay=replay)
    vision: dict[str, feed_forward.Record] = {}
    x_BLD = self.embed(token_BL)
    if images is not None:
      x_BLD, vision = self._with_images(x_BLD, images, row_B, key)
    out = self.of_embeddings(x_BLD, tokens, key)
    return dataclasses.replace(out, vision=vision)

  def of_embeddings(
    self,
    x_BLD: jax.Array,
    tokens: block.TokenContext,
    key: jax.Array | None = None,
  ) -> DecoderOutput:
    """Runs all layers on embeddings, whether of tokens or of anything else.

    Args:
      x_BLD: embeddings in the compute type, such as `embed` with the features
        of images inserted.
      tokens: from `token_context`; routers that read ids read them there.
      key: as of `__call__`.
    """
    x_BLD, record = self.trunk(x_BLD, tokens, key)
    return DecoderOutput(self.norm(x_BLD), record)

  def token_context(
    self,
    token_BL: jax.Array,
    segment_BL: jax.Array,
    position_BL: jax.Array,
    row_B: jax.Array | None = None,
  ) -> block.TokenContext:
    """What the layers read of the tokens; arguments as of `__call__`."""
    index_BL = _index(token_BL, row_B)
    return self._token_context(token_BL, segment_BL, position_BL, index_BL)

  def predict(
    self,
    out: DecoderOutput,
    target_BL: jax.Array,
    segment_BL: jax.Array,
    position_BL: jax.Array,
    row_B: jax.Array | None = None,
    key: jax.Array | None = None,
  ) -> tuple[list[jax.Array], DecoderOutput]:
    """Runs the modules of multi-token prediction after a pass of the model.

    Args:
      out: output of that pass.
      target_BL: int32, id of the token that follows each token.
      segment_BL: as in that pass.
      position_BL: as in that pass.
      row_B: as in that pass.
      key: as in that pass.

    Returns:
      Normalised hidden states [B, L, D] of each module; the targets of module
      k = 1, 2, ... are `mtp.ahead(target_BL, segment_BL, k)`. And `out`, with
      the records of the modules' layers after those of the model's layers. The
      routes of the modules' layers are not recorded.
    """
    config, kind = self.config, self.config.mtp_kind
    index_BL, x_BLD = _index(target_BL, row_B), out.x_BLD
    hidden, records = [], [dataclasses.replace(out.record, routes=None)]
    before = config.num_dense if kind == 'dense' else config.num_sparse
    platform = self.mesh.devices.flat[0].platform
    product = linear.of(platform, config.quantization)
    for k in range(config.mtp_layers):
      joint = mtp.at(self.mtp, k)
      token_BL = mtp.ahead(target_BL, segment_BL, k)
      # To module k, tokens without a target k + 1 tokens ahead are padding.
      ahead_BL = mtp.ahead(segment_BL, segment_BL, k + 1)
      tokens = self._token_context(token_BL, ahead_BL, position_BL, index_BL)
      stage = Stage((kind,), 1, config.num_layers + k, {kind: before + k})
      x_BLD = joint(self.embed(token_BL), x_BLD, product)
      x_BLD, record = self.trunk.run(stage, x_BLD, tokens, key)
      x_BLD = joint.norm(x_BLD)
      records.append(record)
      hidden.append(x_BLD)
    record = jax.tree.map(lambda *x: jnp.concatenate(x), *records)
    record = dataclasses.replace(record, routes=out.record.routes)
    return hidden, DecoderOutput(out.x_BLD, record)

  def step(
    self,
    token_BL: jax.Array,
    position_BL: jax.Array,
    valid_BL: jax.Array,
    cache: KVCache,
    length_B: jax.Array | None = None,
    x_BLD: jax.Array | None = None,
  ) -> tuple[jax.Array, KVCache]:
    """logits_BLV of tokens that follow those in the cache, and the new cache.

    The new tokens may be a whole prompt (with an empty cache), a piece of a
    prompt, or one token.

    Args:
      token_BL: int32, ids of the new tokens.
      position_BL: int32, position of each token in its text, which is also its
        slot in the cache.
      valid_BL: bool, False for padding.
      cache: keys and values of the tokens before.
      length_B: int32, number of tokens of each row's whole text; None means
        that the texts end with the new tokens.
      x_BLD: embeddings to read in place of the tokens' own, such as those with
        the features of images inserted.
    """
    x_BLD, cache = self.advance(
      token_BL, position_BL, valid_BL, cache, length_B, x_BLD
    )
    return self.logits(x_BLD), cache

  def advance(
    self,
    token_BL: jax.Array,
    position_BL: jax.Array,
    valid_BL: jax.Array,
    cache: KVCache,
    length_B: jax.Array | None = None,
    x_BLD: jax.Array | None = None,
  ) -> tuple[jax.Array, KVCache]:
    """As `step`, with normalised hidden states x_BLD in place of logits."""
    segment_BL = valid_BL.astype(jnp.int32)
    row_B1 = jnp.arange(token_BL.shape[0], dtype=jnp.int32)[:, None]
    index_BL = row_B1 * self.config.max_length + position_BL
    tokens = self._token_context(
      token_BL, segment_BL, position_BL, index_BL, length_B
    )
    if x_BLD is None:
      x_BLD = self.embed(token_BL)
    x_BLD, cache = self.trunk.step(x_BLD, tokens, cache)
    return self.norm(x_BLD), cache

  @scopes.part('embedding')
  def embed(self, token_BL: jax.Array) -> jax.Array:
    """x_BLD of tokens, in the compute type."""
    # Gathered along D: the batch is split over the mesh axes that split D.
    w_VD = rules.constrain(
      self.embed_VD[...], ('vocab', 'unsharded'), self.mesh
    )
    x_BLD = w_VD[token_BL].astype(self.config.dtype)
    if self.config.scales.embedding != 1:
      x_BLD = x_BLD * self.config.scales.embedding
    return trunks.constrain(x_BLD, self.mesh)

  @scopes.part('images')
  def _with_images(
    self,
    x_BLD: jax.Array,
    images: RowImages,
    row_B: jax.Array | None,
    key: jax.Array | None,
  ) -> tuple[jax.Array, dict[str, feed_forward.Record]]:
    """The embeddings with features in place of image tokens, and records."""
    if self.vision is None:
      raise errors.InputError(
        'the batch has images, and the model reads text alone: set '
        'model.vision.name=encoder'
      )
    if key is not None:
      key = jax.random.fold_in(key, _VISION)
    x_BLD, records = self.vision.read(x_BLD, images, row_B, key)
    x_BLD = trunks.constrain(x_BLD, self.mesh)
    return x_BLD, records

  @property
  def trunk(self) -> trunks.Trunk:
    """All layers, bound to their weights."""
    kinds = [k for k in ('dense', 'moe') if hasattr(self, k)]
    stacks = {kind: getattr(self, kind) for kind in kinds}
    return trunks.Trunk(self.config, self.mesh, stacks)

  @scopes.part('head')
  def head(self) -> jax.Array:
    """w_DV of the output head in the compute type."""
    w = (
      self.embed_VD[...].T if self.config.tie_embeddings else self.head_DV[...]
    )
    if self.config.scales.logits != 1:
      w = w / self.config.scales.logits
    # Gathered along D, so that no chunk of the loss sums its logits over fsdp.
    w = w.astype(self.config.dtype)
    return rules.constrain(w, ('unsharded', 'vocab'), self.mesh)

  @scopes.part('head')
  def logits(self, x_BLD: jax.Array) -> jax.Array:
    """float32 logits_BLV of hidden states."""
    return jnp.einsum(
      'BLD,DV->BLV', x_BLD, self.head(), preferred_element_type=jnp.float32
    )

  def _check_routes(
    self,
    token_BL: jax.Array,
    routes: RoutesRequest | None,
    replay: Replay | None,
  ) -> None:
    """Raises InputError for routes that are not there, or a wrong replay."""
    config = self.config
    if routes is None and replay is None:
      return
    if not config.num_sparse:
      raise errors.InputError(
        'the model has no layer with experts: it has no routes to record or to '
        'replay'
      )
    if replay is not None and not config.is_routed:
      name = table.name_of(FEED_FORWARDS, config.feed_forward)
      raise errors.InputError(
        f'model.feed_forward={name} cannot replay routes; routed can'
      )
    if replay is not None:
      rows, length = token_BL.shape
      replay.check((rows, length), config.num_sparse, config.moe.num_choices)

  def _token_context(
    self, token_BL, segment_BL, position_BL, index_BL, length_B=None
  ) -> block.TokenContext:
    dim = self.config.heads.rotary_dim(self.config)
    angles = self.config.rope.angles(position_BL, dim, length_B)
    return block.TokenContext(
      segment_BL, position_BL, index_BL, token_BL, angles
    )


def _index(token_BL: jax.Array, row_B: jax.Array | None) -> jax.Array:
  """index_BL: int32, index of each token in the global batch."""
  sizes = shapes.dims('B L', token_BL)
  if row_B is None:
    row_B = jnp.arange(sizes['B'], dtype=jnp.int32)
  return row_B[:, None] * sizes['L'] + jnp.arange(sizes['L'])
