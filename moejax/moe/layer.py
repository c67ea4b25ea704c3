"""Router x dispatcher x experts x balance, joined; nothing else.

One call does, for the tokens of each shard of the batch:

  1. score     logits_TE = scorer(x_TD), float32
  2. route     routing = router(logits, ...), no weights involved
  3. observe   sums for the balance losses and statistics
  4. compute   dispatch to rows grouped by expert, experts, weighted sum: out_TD
  5. reduce    sums and statistics over all shards: the global batch

and adds the shared experts, which see every token.
"""

from typing import Any

import flax.struct
import jax
from flax import nnx
from jax.sharding import Mesh, PartitionSpec

from moejax.core import shapes, values
from moejax.moe import balance, compute, contract, stats
from moejax.moe.config import MoEConfig
from moejax.parallel import mesh as meshes


@flax.struct.dataclass
class Record:
  """What a layer has to say besides its output; stacked over layers.

  Attributes:
    balance: by balance loss, its sums over the batch.
    stats: routing statistics, as values that merge.
  """

  balance: dict[str, Any]
  stats: dict[str, Any]


class MoE(nnx.Module):
  """A mixture-of-experts feed-forward."""

  def __init__(
    self, config: MoEConfig, width: int, std: float, mesh: Mesh, key: jax.Array
  ):
    config.check()
    keys = jax.random.split(key, 3)
    self.config = config
    self.mesh = mesh
    self.router = nnx.Dict(
      config.scorer.init(keys[0], width, config.num_experts, std)
    )
    self.routed = nnx.Dict(
      config.experts.init(
        keys[1], config.num_experts, width, config.expert_width, std
      )
    )
    if config.num_shared:
      hidden = config.num_shared * config.expert_width
      self.shared = nnx.Dict(
        config.experts.init(keys[2], 1, width, hidden, std)
      )

  def __call__(
    self,
    x_BLD: jax.Array,
    valid_BL: jax.Array,
    index_BL: jax.Array,
    key: jax.Array | None,
  ) -> tuple[jax.Array, Record]:
    """Returns out_BLD and what there is to report.

    Args:
      x_BLD: activations in the compute type.
      valid_BL: False marks padding, which gets only the shared experts.
      index_BL: the token's place in the global batch.
      key: random key for this layer and step, or None for no noise.
    """
    weights = {
      'router': _arrays(self.router),
      'routed': _arrays(self.routed, x_BLD.dtype),
    }
    routed = self._sharded if meshes.batch_size(self.mesh) > 1 else self._local
    out_BLD, record = routed(weights, x_BLD, valid_BL, index_BL, key)
    if self.config.num_shared:
      shared = _arrays(self.shared, x_BLD.dtype)
      x_TD = x_BLD.reshape(-1, x_BLD.shape[-1])
      shared_TD = self.config.experts.dense(shared, x_TD)
      out_BLD = out_BLD + shared_TD.reshape(x_BLD.shape)
    return out_BLD, record

  def _sharded(self, weights, x_BLD, valid_BL, index_BL, key):
    """Each shard of the batch routes its own tokens, with all experts."""

    def local(weights, x_BLD, valid_BL, index_BL, key):
      out_BLD, record = self._local(weights, x_BLD, valid_BL, index_BL, key)
      reduced = Record(
        jax.lax.psum(record.balance, meshes.BATCH_AXES),
        values.all_reduce(record.stats, meshes.BATCH_AXES),
      )
      return out_BLD, reduced

    rows, whole = PartitionSpec(meshes.BATCH_AXES), PartitionSpec()
    return jax.shard_map(
      local,
      mesh=self.mesh,
      in_specs=(whole, rows, rows, rows, whole),
      out_specs=(rows, whole),
    )(weights, x_BLD, valid_BL, index_BL, key)

  def _local(self, weights, x_BLD, valid_BL, index_BL, key):
    config = self.config
    sizes = shapes.dims('B L D', x_BLD)
    x_TD = x_BLD.reshape(-1, sizes['D'])
    given = contract.RouterInput(
      logits_TE=config.scorer(weights['router'], x_TD),
      valid_T=valid_BL.reshape(-1),
      index_T=index_BL.reshape(-1),
      key=key,
      row_length=sizes['L'],
    )
    routing = config.router(given)
    platform = self.mesh.devices.flat[0].platform
    found = compute.choose(config, platform)(weights['routed'], x_TD, routing)
    record = Record(
      balance.observe(config.balance, given, routing),
      stats.observe(given, routing, found.sent_A),
    )
    return found.out_TD.reshape(x_BLD.shape), record


def _arrays(weights: nnx.Dict, dtype: Any = None) -> dict[str, jax.Array]:
  return {
    name: param[...] if dtype is None else param[...].astype(dtype)
    for name, param in weights.items()
  }
