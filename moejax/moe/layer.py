"""The mixture-of-experts layer: `decide` routes, `MoE` joins everything.

One call of `MoE` does, for the tokens of each shard of the batch:

  1. score     logits_TE = scorer(x_TD), float32
  2. route     routing = router(logits, ...), no weights involved
  3. limit     assignments beyond an expert's capacity are sent nowhere
  4. compute   rows to their experts, across the `expert` axis where the mesh
               has one (`moe.expert_parallel`), and their weighted sum
               back: out_TD
  5. observe   sums for the balance parts, and statistics
  6. reduce    sums and statistics over all shards: the global batch

and adds the shared experts, which see every token. `decide` has steps 1 to 3
and 5 as pure functions, which benchmarks and analysis call too; `sharded` has
what a mesh adds.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.sharding import Mesh

from moejax.core import errors, scopes, shapes, table, values
from moejax.core import quantization as quantizations
from moejax.moe import (
  decide,
  feed_forward,
  initial_state,
  routes,
  stats,
  whole_experts,
)
from moejax.moe.balance import responses
from moejax.moe.compute.base import ExpertOutput, in_layer
from moejax.moe.config import MoEConfig
from moejax.moe.experts import base, latent, low_rank, zero_computation
from moejax.moe.experts.swiglu import SwiGLU
from moejax.moe.feed_forward import PreviousLayer, Record, TokenInfo
from moejax.moe.routers import ROUTERS
from moejax.moe.sharded import LayerOnMesh, LayerWeights
from moejax.parallel import chunking


class MoE(nnx.Module):
  """A mixture-of-experts feed-forward; see the module's docstring."""

  of_all_layers = False  # see `FeedForward`

  def __init__(  # noqa: PLR0913 (sizes that few callers set)
    self,
    config: MoEConfig,
    width: int,
    std: float,
    mesh: Mesh,
    key: jax.Array,
    chunks: int = 1,
    remat: bool = False,
    out: int | None = None,
    quantization: str = quantizations.NONE,
  ):
    """Makes the weights.

    Args:
      config: of the layer.
      width: D of the input.
      std: standard deviation of the matrices at the start.
      mesh: the devices.
      key: random key.
      chunks: see `LayerOnMesh`.
      remat: whether the backward pass recomputes the layer.
      out: width of the output; None for D.
      quantization: see `LayerOnMesh`.

    Raises:
      InputError: the config does not fit together, the mesh, or `out`.
    """
    config.check()
    _check_mesh(config, mesh)
    _check_out(config, width, out)
    key_scorer, key_experts, key_shared, *others = jax.random.split(key, 6)
    key_extra, key_residual, key_zero = others
    self.config = config
    self.router = nnx.Dict(
      config.scorer.init(key_scorer, width, config.num_logits, std)
    )
    self.extra_scorers = decide.extra_scorers(config, key_extra, width, std)
    if config.gating_residual:
      shape = (config.num_logits, config.num_logits)
      self.residual = nnx.Param(
        std * jax.random.normal(key_residual, shape),
        axes=('unsharded', 'unsharded'),
        decays=True,
      )
    self.zero = nnx.Dict(config.zero_computation.init(key_zero, width))
    self.router_state = initial_state.of(config)
    # Not `key_experts` itself, which the experts' init splits.
    key_latent = jax.random.fold_in(key_experts, 1)
    self.latent = nnx.Dict(
      latent.init(key_latent, width, config.latent_width, std)
    )
    self.routed = nnx.Dict(
      config.experts.init(
        key_experts,
        config.num_experts,
        config.latent_width or width,
        config.expert_width,
        std,
        out,
      )
    )
    whole_experts.keep(self.routed, config.num_experts, mesh)
    if config.low_rank:
      key_low = jax.random.fold_in(key_experts, 2)
      self.low_rank = nnx.Dict(
        low_rank.init(key_low, self.routed, config.low_rank, std)
      )
    # Taken here: a module that is merged from bare arrays has no metadata.
    axes = _axes(self.routed)
    remat = remat or chunks > 1
    self.on_mesh = LayerOnMesh(
      config, mesh, axes, chunks, remat, quantization=quantization
    )
    if config.num_shared:
      sizes = (width, config.shared_width)
      self.shared = nnx.Dict(
        config.shared.init(key_shared, config.experts, sizes, std, out)
      )

  def __call__(
    self,
    x_BLD: jax.Array,
    tokens: TokenInfo,
    previous: PreviousLayer | None,
    key: jax.Array | None,
    layer: jax.Array | int = 0,
  ) -> tuple[jax.Array, PreviousLayer, Record]:
    """See `feed_forward.FeedForward`; `previous` is None for a first layer."""
    if previous is None:
      previous = feed_forward.no_previous_layer(self.config, *x_BLD.shape[:2])
    on_mesh = self._on_mesh(tokens)
    out_BLD, previous, record = on_mesh(
      self._local,
      self.weights(x_BLD.dtype, key, on_mesh),
      x_BLD,
      tokens,
      previous,
      key,
      jnp.asarray(layer),
    )
    if self.config.num_shared:
      shared_BLD = self._shared_output(x_BLD)
      out_BLD = out_BLD + self.config.shared.in_layer(shared_BLD, layer)
    return out_BLD, previous, record

  @property
  def whole_in_decoding(self) -> str:
    """See `FeedForward`."""
    config, on_mesh = self.config, self.on_mesh
    reads_all = config.low_rank or config.reads_responses
    if reads_all or self._scorers_read_experts:
      return ''
    in_one_piece = on_mesh.mesh.size == on_mesh.chunks == 1
    return 'routed' if in_one_piece and on_mesh.compute.most_picked else ''

  def _on_mesh(self, tokens: TokenInfo) -> LayerOnMesh:
    """How the layer is computed, for what is recorded of its routes."""
    if tokens.routes is not None and tokens.routes.measures_experts:
      return self.on_mesh.measuring()
    return self.on_mesh

  def weights(
    self,
    dtype: Any,
    key: jax.Array | None,
    on_mesh: LayerOnMesh | None = None,
  ) -> LayerWeights:
    """The layer's weights as arrays; those of routed experts in `dtype`.

    Args:
      dtype: compute type.
      key: random key of this layer and step, for the noise of experts'
        responses; None means evaluation: no noise.
      on_mesh: how the layer is computed; None for `self.on_mesh`.
    """
    on_mesh = on_mesh or self.on_mesh
    experts = _arrays(self.routed)
    if self.config.low_rank:
      experts = low_rank.summed(experts, _arrays(self.low_rank))
    experts_dtype = on_mesh.experts_dtype(dtype)
    weights = LayerWeights(
      scorer=_arrays(self.router),
      extra_scorers={
        name: _arrays(scorer) for name, scorer in self.extra_scorers.items()
      },
      router_state=jax.lax.stop_gradient(
        nnx.to_pure_dict(nnx.state(self.router_state))
      ),
      experts=_cast(experts, experts_dtype),
      zero_computation=_arrays(self.zero),
      latent=_arrays(self.latent, dtype),
    )
    if self.config.gating_residual:
      weights = dataclasses.replace(weights, residual_EE=self.residual[...])
    if self.config.reads_responses:
      gate_EDF = experts['w_in_ED2F'][:, :, 0]
      responses_EE = responses.matrix(self.router['w_DE'][...].T, gate_EDF, key)
      weights = dataclasses.replace(weights, responses_EE=responses_EE)
    return weights

  @scopes.part('shared_experts')
  def _shared_output(self, x_BLD: jax.Array) -> jax.Array:
    """out_BLD: the sum of the shared experts' outputs for every token."""
    config, on_mesh = self.config, self.on_mesh
    weights = base.for_dense(
      _arrays(self.shared, x_BLD.dtype), on_mesh.platform
    )

    def run(x_BLD: jax.Array) -> jax.Array:
      x_TD = x_BLD.reshape(-1, x_BLD.shape[-1])
      out_TD = config.shared(weights, config.experts, x_TD, on_mesh.linear)
      return out_TD.reshape(*x_BLD.shape[:2], -1)

    return chunking.map_chunks(run, x_BLD, on_mesh.chunks, on_mesh.mesh)

  def _local(
    self, weights, x_BLD, tokens, previous, key, layer, grad_accumulator
  ):
    """Steps 1 to 5 for some rows of one device; a `sharded.LocalLayer`."""
    config = self.config
    rows, row_length, _ = shapes.dims('B L D', x_BLD).values()
    flat = lambda x: x.reshape(rows * row_length, *x.shape[2:])
    unflat = lambda x: x.reshape(rows, row_length, *x.shape[1:])
    x_TD = flat(x_BLD)
    routing_weights, on_mesh = weights, self._on_mesh(tokens)
    if self._scorers_read_experts:
      experts = on_mesh.all_experts(weights.experts)
      routing_weights = weights.replace(experts=experts)
    decision = decide.route(
      config,
      routing_weights,
      x_TD,
      tokens,
      previous=previous,
      key=key,
      layer=layer,
    )
    output = self._expert_output(
      on_mesh, weights, x_TD, decision, grad_accumulator, layer
    )
    chosen_TE = stats.chosen(decision.routing)
    record = decide.observe(
      config, weights, decision, output.sent_A, flat(previous.chosen_BLE)
    )
    overflow = values.Sum(jnp.asarray(output.overflow, jnp.float32))
    record = Record(record.balance, {**record.stats, 'overflow': overflow})
    if tokens.routes is not None:
      recorded = self._routes(on_mesh, weights, x_BLD, tokens, decision, output)
      record = dataclasses.replace(record, routes=recorded)
    if config.gating_residual:
      previous = previous.replace(
        logits_BLE=unflat(stats.unmasked(decision.router_input))
      )
    previous = previous.replace(
      chosen_BLE=unflat(chosen_TE), state_BLR=unflat(decision.state_TR)
    )
    return (unflat(output.out_TD), previous, record), output.grad_accumulator

  def _routes(
    self, on_mesh, weights, x_BLD, tokens, decision, output
  ) -> routes.Routes:
    """The routes of these tokens, with all that `tokens.routes` asks for."""
    request, routing = tokens.routes, decision.routing
    norm_A = output.norm_A if request.outputs else None
    if norm_A is not None and decision.limited.scales_input:
      weight_A = decision.limited.weight_A
      norm_A = norm_A / jnp.where(weight_A == 0, jnp.inf, weight_A)
    recorded = routes.record(
      request, decision.router_input, routing, output.sent_A, norm_A
    )
    if request.outputs:
      routed_BLD = output.out_TD.reshape(x_BLD.shape)
      recorded = dataclasses.replace(recorded, routed_BLD=routed_BLD)
    if request.output_gram:
      x_TD = x_BLD.reshape(-1, x_BLD.shape[-1])
      x_TD = latent.down(weights.latent, x_TD, on_mesh.linear)
      gram_BEE = on_mesh.output_gram(
        weights.experts, x_TD.reshape(*x_BLD.shape[:2], -1), tokens.valid_BL
      )
      recorded = dataclasses.replace(recorded, gram_BEE=gram_BEE)
    return recorded

  @property
  def _scorers_read_experts(self) -> bool:
    """Whether the scorer, or a further one, reads the experts' weights."""
    extra_scorers = self.config.router.extra_scorers(self.config.num_choices)
    scorers = [self.config.scorer, *(s for s, _ in extra_scorers.values())]
    return any(scorer.reads_experts for scorer in scorers)

  @scopes.part('experts')
  def _expert_output(
    self, on_mesh, weights, x_TD, decision, grad_accumulator, layer
  ) -> ExpertOutput:
    """Step 4: the weighted sum of each token's choices, and its residual."""
    found = weights.experts, decision.limited, self.config.num_experts
    if self.of_all_layers:
      found = in_layer(on_mesh.compute, *found, layer)
    experts, limited, num_experts = found
    expert_x_TD = x_TD
    if limited.scales_input:
      expert_x_TD = x_TD * limited.weight_A[:, None].astype(x_TD.dtype)
      weight_A = jnp.ones_like(limited.weight_A)
      limited = dataclasses.replace(limited, weight_A=weight_A)
    expert_x_TD = latent.down(weights.latent, expert_x_TD, on_mesh.linear)
    output = on_mesh.expert_output(
      experts, expert_x_TD, limited, grad_accumulator, num_experts
    )
    out_TD = latent.up(weights.latent, output.out_TD, on_mesh.linear)
    sent_A, routing = output.sent_A, decision.limited
    if self.config.zero_computation.num:
      zero = self.config.zero_computation
      gate_TZ, is_zero_A = zero_computation.gates(
        routing, self.config.num_experts, zero.num
      )
      if out_TD.shape == x_TD.shape:
        out_TD = out_TD + zero(weights.zero_computation, x_TD, gate_TZ)
      sent_A = sent_A | is_zero_A
    if routing.residual_T is not None:
      if out_TD.shape != x_TD.shape:
        name = table.name_of(ROUTERS, self.config.router)
        raise errors.InputError(
          f'model.moe.router={name} adds the token itself, of width '
          f'{x_TD.shape[1]}, to an output of width {out_TD.shape[1]}: take '
          'another router'
        )
      out_TD = out_TD + routing.residual_T[:, None].astype(x_TD.dtype) * x_TD
    return dataclasses.replace(output, out_TD=out_TD, sent_A=sent_A)


def _axes(params: nnx.Dict) -> tuple[tuple[str, tuple[str, ...]], ...]:
  """By name of a parameter, the names of its dimensions."""
  return tuple(
    (name, tuple(param.get_metadata()['axes']))
    for name, param in params.items()
  )


def _check_mesh(config: MoEConfig, mesh: Mesh) -> None:
  """Raises InputError if the experts do not divide over the mesh."""
  if config.num_experts % mesh.shape['expert']:
    raise errors.InputError(
      f'mesh.expert={mesh.shape["expert"]} does not divide '
      f'model.moe.num_experts={config.num_experts}'
    )


def _check_out(config: MoEConfig, width: int, out: int | None) -> None:
  """Raises InputError if a layer cannot have another width of the output."""
  if out in {None, width}:
    return
  zero = config.zero_computation
  if zero.copy or zero.constant:
    raise errors.InputError(
      f'model.moe.zero_computation has {zero.copy} copies and {zero.constant} '
      f'constants, which add the token itself, of width {width}, to an output '
      f'of width {out}: set both to 0'
    )
  if (
    config.latent_width
    or config.low_rank
    or not isinstance(config.experts, base.TwoLayers)
  ):
    raise errors.InputError(
      f'model.moe.experts of input {width} and output {out} have two matrices '
      'alone: set latent_width=0, low_rank=0 and other experts'
    )
  if isinstance(config.experts, SwiGLU):
    raise errors.InputError(
      f'model.moe.experts=swiglu have one width before and behind, not {width} '
      f'and {out}: set experts=two_matrix'
    )


def _arrays(params: nnx.Dict, dtype: Any = None) -> dict[str, jax.Array]:
  """The parameters as arrays by name, in `dtype` if it is given."""
  return _cast({name: param[...] for name, param in params.items()}, dtype)


def _cast(arrays: dict[str, jax.Array], dtype: Any) -> dict[str, jax.Array]:
  """The arrays in `dtype`, if it is given."""
  if dtype is None:
    return arrays
  return {name: x.astype(dtype) for name, x in arrays.items()}
