"""The decoder: tokens to hidden states to logits."""

import flax.struct
import jax
import jax.numpy as jnp
from flax import nnx
from jax.sharding import Mesh

from moejax.core import shapes
from moejax.model import block, mtp, norm, remat, stages
from moejax.model.attention.cache import Cache
from moejax.model.config import ModelConfig
from moejax.model.stages import Stage
from moejax.moe import feed_forward, layer
from moejax.parallel import rules


@flax.struct.dataclass
class Output:
  """Hidden states before the head, and the record of the layers with experts.

  Attributes:
    x_BLD: normalised hidden states in the compute type.
    record: what the layers report, layers in front; empty dictionaries if no
      layer has experts.
  """

  x_BLD: jax.Array
  record: feed_forward.Record


class Decoder(nnx.Module):
  """Embedding, dense layers, layers with experts, norm, head.

  Equal layers are stored stacked (their weights have the layer in front) and
  run in a loop, so that compile time does not grow with depth. Those of
  multi-token prediction are the last of their stack.
  """

  def __init__(self, config: ModelConfig, mesh: Mesh, key: jax.Array):
    config.check()
    keys = jax.random.split(key, 4)
    self.config = config
    self.mesh = mesh
    shape = (config.vocab_size, config.width)
    self.embed_VD = nnx.Param(
      config.init_std * jax.random.normal(keys[0], shape),
      axes=('vocab', 'embed'),
      decays=True,
    )
    more = dict.fromkeys(('dense', 'moe'), 0)
    more[config.mtp_kind] = config.mtp_layers
    if number := config.num_dense and config.num_dense + more['dense']:
      self.dense = _stack(config, mesh, keys[1], number, moe=False)
    if number := config.num_sparse and config.num_sparse + more['moe']:
      self.moe = _stack(config, mesh, keys[2], number, moe=True)
    if config.mtp_layers:
      self.mtp = mtp.stack(config, jax.random.fold_in(key, len(keys)))
    self.norm = norm.RMSNorm(config.width, config.norm_eps)
    if not config.tie_embeddings:
      self.head_DV = nnx.Param(
        config.init_std * jax.random.normal(keys[3], shape[::-1]),
        axes=('embed', 'vocab'),
        decays=True,
      )

  def __call__(
    self,
    token_BL: jax.Array,
    segment_BL: jax.Array,
    position_BL: jax.Array,
    row_B: jax.Array | None = None,
    key: jax.Array | None = None,
  ) -> Output:
    """Runs all layers.

    Args:
      token_BL: int32 ids below vocab_size.
      segment_BL: int32 document of each token in its row, 0 for padding.
      position_BL: int32 place of each token in its document.
      row_B: int32 place of each row in the global batch; 0, 1, ... if absent.
        Routers draw their noise from it.
      key: random key of this step; None means no noise (evaluation).
    """
    index_BL = _index(token_BL, row_B)
    tokens = self._tokens(token_BL, segment_BL, position_BL, index_BL)
    x_BLD = self._embed(token_BL)
    records = feed_forward.Record({}, {})
    for stage in self._stages():
      trace = self._no_trace(stage.kinds[-1], token_BL)
      x_BLD, records = self._run(stage, x_BLD, tokens, trace, key)
    return Output(self.norm(x_BLD), records)

  def predict(
    self,
    out: Output,
    target_BL: jax.Array,
    segment_BL: jax.Array,
    position_BL: jax.Array,
    row_B: jax.Array | None = None,
    key: jax.Array | None = None,
  ) -> tuple[list[jax.Array], Output]:
    """Runs the modules of multi-token prediction behind a pass.

    Args:
      out: of that pass.
      target_BL: int32 ids that each token should say next.
      segment_BL: as in that pass, as are the others.
      position_BL: int32.
      row_B: int32.
      key: random key of this step.

    Returns:
      Each module's normalised hidden states; what module k = 1, 2, ... should
      say is `mtp.ahead(target_BL, segment_BL, k)`. And `out` with the records
      of their layers behind those of the model's.
    """
    config, kind = self.config, self.config.mtp_kind
    index_BL, x_BLD = _index(target_BL, row_B), out.x_BLD
    found, records = [], [out.record]
    before = config.num_dense if kind == 'dense' else config.num_sparse
    for k in range(config.mtp_layers):
      joint = mtp.at(self.mtp, k)
      token_BL = mtp.ahead(target_BL, segment_BL, k)
      # What has nothing to say is padding.
      seen_BL = mtp.ahead(segment_BL, segment_BL, k + 1)
      tokens = self._tokens(token_BL, seen_BL, position_BL, index_BL)
      stage = Stage((kind,), 1, config.num_layers + k, {kind: before + k})
      x_BLD, record = self._run(
        stage,
        joint(self._embed(token_BL), x_BLD),
        tokens,
        self._no_trace(kind, token_BL),
        key,
      )
      x_BLD = joint.norm(x_BLD)
      records.append(record)
      found.append(x_BLD)
    joined = jax.tree.map(lambda *x: jnp.concatenate(x), *records)
    return found, Output(out.x_BLD, joined)

  def step(
    self,
    token_BL: jax.Array,
    position_BL: jax.Array,
    valid_BL: jax.Array,
    cache: Cache,
    length_B: jax.Array | None = None,
  ) -> tuple[jax.Array, Cache]:
    """logits_BLV of tokens that follow those in the cache, and the new cache.

    Serves for a whole prompt (L tokens into an empty cache), a piece of one,
    and for one token. `length_B` is how many tokens the texts have of which
    these are a piece; None: they end with these.
    """
    segment_BL = valid_BL.astype(jnp.int32)
    row_B1 = jnp.arange(token_BL.shape[0], dtype=jnp.int32)[:, None]
    index_BL = row_B1 * self.config.max_length + position_BL
    tokens = self._tokens(token_BL, segment_BL, position_BL, index_BL, length_B)
    x_BLD = self._embed(token_BL)
    ks, vs = [], []
    for stage in self._stages():
      carry = (x_BLD, self._no_trace(stage.kinds[-1], token_BL))

      def one(block, carry, place, slot):
        x_BLD, trace, new = block.step(*carry, tokens, place, slot)
        return (x_BLD, trace), new

      (x_BLD, _), new = self._through(
        stage, carry, one, stage.of(cache.k_NBSGK, cache.v_NBSGK)
      )
      ks += [stage.joined([k for k, _ in new])]
      vs += [stage.joined([v for _, v in new])]
    k, v = jnp.concatenate(ks), jnp.concatenate(vs)
    return self.logits(self.norm(x_BLD)), Cache(k, v)

  def head(self) -> jax.Array:
    """w_DV in the compute type."""
    w = (
      self.embed_VD[...].T if self.config.tie_embeddings else self.head_DV[...]
    )
    if self.config.scales.logits != 1:
      w = w / self.config.scales.logits
    # Whole in D, or each chunk of the loss would sum its logits over fsdp.
    w = w.astype(self.config.dtype)
    return rules.constrain(w, ('unsharded', 'vocab'), self.mesh)

  def logits(self, x_BLD: jax.Array) -> jax.Array:
    """float32 logits_BLV of hidden states."""
    return jnp.einsum(
      'BLD,DV->BLV', x_BLD, self.head(), preferred_element_type=jnp.float32
    )

  def _stages(self) -> list[Stage]:
    """The loops over layers there are, first layers first."""
    return stages.of(self.config)

  def _tokens(
    self, token_BL, segment_BL, position_BL, index_BL, length_B=None
  ) -> block.Tokens:
    config = self.config
    dim = config.heads.rotary_dim(config)
    angles = config.rope.angles(position_BL, dim, length_B)
    return block.Tokens(segment_BL, position_BL, index_BL, token_BL, angles)

  def _no_trace(self, kind: str, token_BL) -> feed_forward.Trace | None:
    """What the first layer of a stack knows of the one before."""
    if kind == 'dense' or not self.config.is_routed:
      return None
    trace = layer.no_trace(self.config.moe, *token_BL.shape)
    axes = ('batch', 'unsharded', 'unsharded')
    return jax.tree.map(lambda x: rules.constrain(x, axes, self.mesh), trace)

  def _embed(self, token_BL: jax.Array) -> jax.Array:
    # Whole in D: the rows of a batch lie elsewhere than their columns.
    w_VD = rules.constrain(
      self.embed_VD[...], ('vocab', 'unsharded'), self.mesh
    )
    x_BLD = w_VD[token_BL].astype(self.config.dtype)
    if self.config.scales.embedding != 1:
      x_BLD = x_BLD * self.config.scales.embedding
    return rules.constrain(
      x_BLD, ('batch', 'unsharded', 'unsharded'), self.mesh
    )

  def _place(self, stage: Stage, at: int) -> block.Place:
    """Which layers the ones at a place of the stage's groups are, stacked."""
    kind, windows = stage.kinds[at], self.config.windows
    each, before = stage.kinds.count(kind), stage.kinds[:at].count(kind)
    group_R = jnp.arange(stage.repeats)
    index_R = stage.first[kind] + before + each * group_R
    if not any(windows):
      return block.Place(index_R, None)
    layer_R = stage.start + at + len(stage.kinds) * group_R
    window_R = jnp.asarray(windows, jnp.int32)[layer_R % len(windows)]
    return block.Place(index_R, window_R)

  def _run(self, stage, x_BLD, tokens, trace, key):
    """The layers of one stage; the records of those with experts, stacked."""

    def one(block, carry, place, _):
      layer_key = None if key is None else jax.random.fold_in(key, place.index)
      x_BLD, trace, record = block(*carry, tokens, layer_key, place)
      axes = ('batch', 'unsharded', 'unsharded')
      return (rules.constrain(x_BLD, axes, self.mesh), trace), record

    (x_BLD, _), records = self._through(stage, (x_BLD, trace), one)
    return x_BLD, records[-1]

  def _through(self, stage, carry, one, slots=None):
    """Takes `carry` through a stage's layers.

    Args:
      stage: which.
      carry: what goes from layer to layer.
      one: `carry, out = one(block, carry, place, slot)` for one layer.
      slots: what else each of them is given, from `stage.of`; then it is no
        training, and nothing is computed again.

    Returns:
      The last carry, and for each place in the groups the outs, stacked.
    """
    policy = remat.POLICIES[self.config.remat if slots is None else 'none']
    visits, weights = {}, {}
    for kind in set(stage.kinds):
      graph, whole = nnx.split(getattr(self, kind))
      weights[kind] = stage.weights(kind, whole)

      @policy
      def visit(carry, weights, place, slot, graph=graph):
        return one(nnx.merge(graph, weights), carry, place, slot)

      visits[kind] = visit

    def body(carry, inputs):
      weights, places, slots = inputs
      outs = []
      for kind, own, place, slot in zip(
        stage.kinds, stage.each(weights), places, slots, strict=True
      ):
        carry, out = visits[kind](carry, own, place, slot)
        outs.append(out)
      return carry, outs

    places = [self._place(stage, at) for at in range(len(stage.kinds))]
    return jax.lax.scan(
      body,
      carry,
      (weights, places, slots or [None] * len(places)),
      unroll=min(
        self.config.scan_unroll if slots is None else 1, stage.repeats
      ),
    )


def _index(token_BL: jax.Array, row_B: jax.Array | None) -> jax.Array:
  """index_BL, each token's place in the global batch."""
  sizes = shapes.dims('B L', token_BL)
  if row_B is None:
    row_B = jnp.arange(sizes['B'], dtype=jnp.int32)
  return row_B[:, None] * sizes['L'] + jnp.arange(sizes['L'])


def _stack(
  config: ModelConfig, mesh: Mesh, key: jax.Array, count: int, *, moe: bool
) -> block.Block:
  """`count` equal layers as one block; its weights have the layer in front."""
  make = nnx.vmap(lambda key: block.Block(config, mesh, key, moe=moe))
  return make(jax.random.split(key, count))
