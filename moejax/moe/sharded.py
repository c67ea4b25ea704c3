"""The mixture-of-experts layer on a mesh, and in chunks of the rows.

Every device routes its own tokens. `LayerOnMesh` brings tokens, weights and
experts together:

  shards    shard_map over the batch axes. Expert weights enter split over
            `expert` and `model`; dimensions that are split over `fsdp` are
            gathered. Sums and statistics are reduced to the global batch
  chunks    the rows of a device are cut into chunks, computed one after the
            other; one array accumulates the gradients of the expert weights
  experts   the device's own, or those of all devices by `moe.expert_parallel`;
            where the hidden width is split over `model`, outputs are summed
"""

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
from jax.sharding import Mesh, PartitionSpec

from moejax.core import linear, values, varying
from moejax.core import quantization as quantizations
from moejax.moe import contract, measured
from moejax.moe.compute import implementations, staged
from moejax.moe.compute.base import Compute, ExpertOutput
from moejax.moe.config import MoEConfig
from moejax.moe.expert_parallel.gather_experts import GatherExperts
from moejax.moe.feed_forward import PreviousLayer, Record, TokenInfo
from moejax.parallel import chunking, inside, rules
from moejax.parallel import mesh as meshes

# The weights of routed experts, by name.
ExpertWeights = dict[str, jax.Array]


@flax.struct.dataclass
class LayerWeights:
  """The weights of one layer, as arrays by name.

  Attributes:
    scorer: weights of the scorer.
    extra_scorers: weights of the router's further scorers, by scorer.
    router_state: states of the balance parts, by part; and under 'router' the
      number of steps, if the router counts them. No gradient reaches them.
    experts: weights of the routed experts, in the compute type; inside a shard,
      those of the device's own experts.
    zero_computation: weights of the choices without computation.
    latent: the matrices before and behind the routed experts.
    residual_EE: the matrix of `gating_residual`, else None.
    responses_EE: responses of experts to the router's rows, for a balance part
      that reads them, else None.
  """

  scorer: dict[str, jax.Array]
  extra_scorers: dict[str, dict[str, jax.Array]] = flax.struct.field(
    default_factory=dict
  )
  router_state: dict[str, dict[str, jax.Array]] = flax.struct.field(
    default_factory=dict
  )
  experts: ExpertWeights = flax.struct.field(default_factory=dict)
  zero_computation: dict[str, jax.Array] = flax.struct.field(
    default_factory=dict
  )
  latent: dict[str, jax.Array] = flax.struct.field(default_factory=dict)
  residual_EE: jax.Array | None = None
  responses_EE: jax.Array | None = None


# The layer for some rows of one device: a function of weights, x_BLD, tokens,
# previous, key, layer and grad_accumulator. It returns the tuple (out_BLD,
# previous, record), and the grad_accumulator for the next rows.
LocalLayer = Callable[..., tuple[tuple[jax.Array, PreviousLayer, Record], Any]]


@dataclasses.dataclass(frozen=True)
class LayerOnMesh:
  """How one layer is computed by the devices of a mesh.

  Attributes:
    config: of the layer.
    mesh: the devices.
    expert_axes: by name of an expert weight, the names of its dimensions.
    chunks: number of chunks into which the rows of a device are cut.
    remat: whether the backward pass recomputes the layer.
    measures: whether the outputs of single experts are looked at.
    quantization: an entry of QUANTIZATIONS, for the products of experts and of
      the matrices around them.
  """

  config: MoEConfig
  mesh: Mesh
  expert_axes: tuple[tuple[str, tuple[str, ...]], ...]
  chunks: int = 1
  remat: bool = False
  measures: bool = False
  quantization: str = quantizations.NONE

  def measuring(self) -> 'LayerOnMesh':
    """The same layer for a pass that looks at the outputs of single experts.

    Every device gathers all experts of the layer, so that the outputs are where
    their tokens are, and computes them in stages.
    """
    config = dataclasses.replace(self.config, expert_parallel=GatherExperts())
    return dataclasses.replace(self, config=config, measures=True)

  def __call__(
    self,
    local: LocalLayer,
    weights: LayerWeights,
    x_BLD: jax.Array,
    tokens: TokenInfo,
    previous: PreviousLayer,
    key: jax.Array | None,
    layer: jax.Array,
  ) -> tuple[jax.Array, PreviousLayer, Record]:
    """Computes the layer for all rows of the global batch by `local`.

    Returns:
      out_BLD, what the next layer reads, and the record of the global batch.
    """
    over_rows = self._over_shards if self.mesh.size > 1 else self._over_chunks
    return over_rows(local, weights, x_BLD, tokens, previous, key, layer)

  @property
  def platform(self) -> str:
    """The platform of the devices: 'cpu', 'tpu' ..."""
    return self.mesh.devices.flat[0].platform

  @property
  def linear(self) -> linear.Linear:
    """The product of activations and weights for the devices."""
    return linear.of(self.platform, self.quantization)

  @property
  def compute(self) -> Compute:
    """How experts are computed on one device."""
    if self.measures:
      return self.stages
    return implementations.choose(
      self.config,
      self.platform,
      remat=self.remat,
      quantization=self.quantization,
    )

  @property
  def stages(self) -> staged.StagedCompute:
    """How experts are computed if their single outputs are looked at."""
    return implementations.choose_staged(
      self.config, self.platform, self.quantization
    )

  def experts_dtype(self, dtype: Any) -> Any:
    """The type of the experts' weights that `compute` is given; None: any.

    Args:
      dtype: compute type, in which weights travel between devices.
    """
    alone = self.mesh.size == 1
    return None if alone and self.compute.rounds_weights else dtype

  def all_experts(self, experts: ExpertWeights) -> ExpertWeights:
    """The weights of all devices' experts, from those of this device.

    Weights that are not split by expert are left out, if they are gathered.
    """
    if self.config.expert_parallel.gathers_experts or self.mesh.size == 1:
      return experts
    axes = dict(self.expert_axes)
    return {
      name: jax.lax.all_gather(w, 'expert', axis=0, tiled=True)
      for name, w in experts.items()
      if axes[name][0] in rules.EXPERTS
    }

  def expert_output(
    self,
    experts: ExpertWeights,
    x_TD: jax.Array,
    routing: contract.Routing,
    grad_accumulator: Any,
    num_experts: int,
  ) -> ExpertOutput:
    """The routed experts' output for the tokens of this device.

    Args:
      experts: weights of this device's experts.
      x_TD: its tokens, at the width of the experts.
      routing: their assignments, after the dispatcher's limit.
      grad_accumulator: see `Compute`.
      num_experts: of the layer, or from `compute.base.in_layer`.
    """
    experts = self._with_one_bias(experts)
    if self.measures:
      return measured.output(
        self.stages, experts, x_TD, routing, num_experts, self._hidden_axes
      )
    if self._rows_move:
      output = self.config.expert_parallel(
        self.compute, experts, x_TD, routing, num_experts
      )
    else:
      output = self.compute(
        experts, x_TD, routing, num_experts, grad_accumulator
      )
    if self._hidden_axes:
      # Each device has summed its part of the hidden width.
      out_TD = jax.lax.psum(output.out_TD, self._hidden_axes)
      output = dataclasses.replace(output, out_TD=out_TD)
    return output

  def output_gram(
    self, experts: ExpertWeights, x_BLD: jax.Array, valid_BL: jax.Array
  ) -> jax.Array:
    """gram_BEE of the outputs of all experts; see `measured.gram`.

    Args:
      experts: weights of all experts, in a layer that is `measuring`.
      x_BLD: this device's tokens, at the width of the experts.
      valid_BL: bool; other tokens are not counted.
    """
    return measured.gram(
      self.stages,
      self._with_one_bias(experts),
      x_BLD,
      valid_BL,
      self.config.num_experts,
      self._hidden_axes,
    )

  @property
  def _hidden_axes(self) -> tuple[str, ...]:
    """The mesh axes over which the hidden width of experts is split."""
    splits_hidden = any('mlp' in axes for _, axes in self.expert_axes)
    return ('model',) if self.mesh.size > 1 and splits_hidden else ()

  def _with_one_bias(self, experts: ExpertWeights) -> ExpertWeights:
    """The weights, of which one device alone of a sum adds the bias."""
    if not self._hidden_axes or 'b_out_ED' not in experts:
      return experts
    is_first = jax.lax.axis_index('model') == 0
    bias_ED = jnp.where(is_first, experts['b_out_ED'], 0)
    return {**experts, 'b_out_ED': bias_ED}

  @property
  def _rows_move(self) -> bool:
    """Whether rows move to the devices of their experts."""
    is_split = self.mesh.shape['expert'] > 1
    return is_split and not self.config.expert_parallel.gathers_experts

  def _over_shards(self, local, weights, *inputs):
    """Computes each shard of the batch; the record is that of all shards."""

    def shard(weights, x_BLD, *inputs):
      experts = self._gather_fsdp(weights.experts, x_BLD)
      weights = dataclasses.replace(weights, experts=experts)
      out_BLD, previous, record = self._over_chunks(
        local, weights, x_BLD, *inputs
      )
      reduced = Record(
        jax.lax.psum(record.balance, meshes.BATCH_AXES),
        values.all_reduce(record.stats, meshes.BATCH_AXES),
        record.routes,
      )
      return out_BLD, previous, reduced

    rows, replicated = PartitionSpec(meshes.BATCH_AXES), PartitionSpec()
    fields = (field.name for field in dataclasses.fields(LayerWeights))
    routes = rows if inputs[1].routes is not None else None
    record_specs: Any = {
      'balance': replicated,
      'stats': replicated,
      'routes': routes,
    }
    weight_specs: dict[str, Any] = dict.fromkeys(fields, replicated)
    weight_specs['experts'] = {
      name: self._expert_spec(axes) for name, axes in self.expert_axes
    }
    return inside.shard_map(
      shard,
      self.mesh,
      in_specs=(
        LayerWeights(**weight_specs),
        rows,
        rows,
        rows,
        replicated,
        replicated,
      ),
      out_specs=(rows, rows, Record(**record_specs)),
    )(weights, *inputs)

  def _expert_spec(self, axes: tuple[str, ...]) -> PartitionSpec:
    """How an expert weight enters a shard: split as it is stored.

    Where every device computes all experts, shard_map gathers them on entry.
    """
    gathers = self.config.expert_parallel.gathers_experts
    unsplit = {rules.EXPERT} if gathers else set()
    return PartitionSpec(
      *(None if name in unsplit else rules.RULES[name] for name in axes)
    )

  def _gather_fsdp(
    self, experts: ExpertWeights, x_BLD: jax.Array
  ) -> ExpertWeights:
    """Expert weights, with dimensions that are split over fsdp gathered.

    The weights are put into the layout of `Compute.prepare` first, while they
    are small, and marked as varying over the mesh like the rows. So in the
    backward pass the sum over fsdp, of which each device keeps its slice, comes
    before any other sum of the gradients.
    """
    axes = dict(self.expert_axes)
    if not self.config.scorer.reads_experts:
      experts = self.compute.prepare(experts)
      # The halves of w_in are split as w_in is.
      halves = ('w_gate_EDF', 'w_up_EDF')
      axes |= {name: axes['w_in_ED2F'] for name in halves if name in experts}

    # By the name of a dimension, the mesh axes over which it is gathered here.
    over: dict[str, tuple[str, ...]] = {rules.WHOLE_EXPERT: ('fsdp',)}
    if self.config.expert_parallel.gathers_experts:
      over[rules.WHOLE_EXPERT] = ('expert', 'fsdp')
    over |= {n: ('fsdp',) for n, rule in rules.RULES.items() if rule == 'fsdp'}

    def gather(w, axes):
      for dim, name in enumerate(axes):
        if name in over and self.mesh.shape['fsdp'] > 1:
          w = jax.lax.all_gather(
            varying.like(w, x_BLD), over[name], axis=dim, tiled=True
          )
      return w

    return {name: gather(w, axes[name]) for name, w in experts.items()}

  def _over_chunks(self, local, weights, x_BLD, tokens, previous, key, layer):
    """Computes the rows of a device in chunks, and adds up their records."""
    num_rows = x_BLD.shape[0]
    chunks = math.gcd(self.chunks, num_rows)
    if chunks == 1:
      return local(weights, x_BLD, tokens, previous, key, layer, None)[0]
    experts, grad_accumulator = self._for_chunks(weights.experts, x_BLD)
    weights = dataclasses.replace(weights, experts=experts)

    def run(chunk, grad_accumulator):
      return local(weights, *chunk, key, layer, grad_accumulator)

    out_BLD, previous, records = chunking.scan_chunks(
      run, (x_BLD, tokens, previous), chunks, grad_accumulator
    )
    join = lambda x: x.reshape(num_rows, *x.shape[2:])
    each = [jax.tree.map(lambda x, n=n: x[n], records) for n in range(chunks)]
    record = Record(
      jax.tree.map(lambda x: jnp.sum(x, axis=0), records.balance),
      functools.reduce(values.merge, [record.stats for record in each]),
      jax.tree.map(join, records.routes),
    )
    return join(out_BLD), jax.tree.map(join, previous), record

  def _for_chunks(
    self, experts: ExpertWeights, x_BLD: jax.Array
  ) -> tuple[ExpertWeights, Any]:
    """Expert weights in the layout of `Compute.prepare`, and an accumulator.

    Weights that a scorer reads keep their layout. The accumulator adds up the
    chunks' gradients; it is None where rows move across the `expert` axis, and
    where the implementation has none.
    """
    if self.config.scorer.reads_experts:
      return experts, None
    experts = self.compute.prepare(experts)
    if self._rows_move:
      return experts, None
    grad_accumulator = self.compute.grad_accumulator(experts)
    if grad_accumulator is None:
      return experts, None
    grad_accumulator = jax.tree.map(
      lambda w: varying.like(w, x_BLD), grad_accumulator
    )
    return jax.lax.stop_gradient(experts), grad_accumulator
