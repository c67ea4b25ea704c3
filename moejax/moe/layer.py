"""Router x dispatcher x experts x balance, joined; nothing else.

One call does, for the tokens of each shard of the batch:

  1. score     logits_TE = scorer(x_TD), float32
  2. route     routing = router(logits, ...), no weights involved
  3. limit     what the dispatcher has no room for is sent nowhere
  4. observe   sums for the balance parts and statistics
  5. compute   rows to their experts, across the `expert` axis where the mesh
               has one (`moe.expert_parallel`), and their weighted sum
               back: out_TD
  6. reduce    sums and statistics over all shards: the global batch

and adds the shared experts, which see every token.
"""

import dataclasses
import functools
import math
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
from flax import nnx
from jax.sharding import Mesh, PartitionSpec

from moejax.core import errors, shapes, values, varying
from moejax.moe import balance, contract, stats
from moejax.moe.balance import responses
from moejax.moe.compute import implementations
from moejax.moe.compute.base import Compute, ExpertOutput
from moejax.moe.config import MoEConfig
from moejax.moe.experts import base, latent
from moejax.moe.scorers.base import ScorerInput
from moejax.parallel import chunking, rules
from moejax.parallel import mesh as meshes


@flax.struct.dataclass
class Tokens:
  """What a layer is told of the tokens besides their activations.

  Attributes:
    valid_BL: False marks padding, which gets only the shared experts.
    index_BL: int32 place in the global batch.
    token_BL: int32 vocabulary ids.
  """

  valid_BL: jax.Array
  index_BL: jax.Array
  token_BL: jax.Array


@flax.struct.dataclass
class Trace:
  """What one layer with experts hands to the next.

  Attributes:
    chosen_BLE: bool, the choices of each token.
    logits_BLE: float32 logits, for `gating_residual`; else without elements.
    state_BLR: float32, what the scorer hands on; R is its `state_width`.
  """

  chosen_BLE: jax.Array
  logits_BLE: jax.Array
  state_BLR: jax.Array


@flax.struct.dataclass
class Record:
  """What a layer has to say besides its output; stacked over layers.

  Attributes:
    balance: by balance part, its sums over the batch.
    stats: routing statistics, as values that merge.
  """

  balance: dict[str, Any]
  stats: dict[str, Any]


class MoE(nnx.Module):
  """A mixture-of-experts feed-forward."""

  def __init__(
    self,
    config: MoEConfig,
    width: int,
    std: float,
    mesh: Mesh,
    key: jax.Array,
    chunks: int = 1,
    remat: bool = False,
  ):
    config.check()
    # Whether the backward pass recomputes the layer.
    self.remat = remat or chunks > 1
    # Into how many parts, one after the other, a device's rows are put.
    self.chunks = chunks
    if config.num_experts % mesh.shape['expert']:
      raise errors.InputError(
        f'mesh.expert={mesh.shape["expert"]} does not divide '
        f'model.moe.num_experts={config.num_experts}'
      )
    keys = jax.random.split(key, 6)
    choices, num_logits = config.num_choices, config.num_logits
    self.config = config
    self.mesh = mesh
    self.router = nnx.Dict(config.scorer.init(keys[0], width, num_logits, std))
    self.extra_scorers = nnx.Dict({
      name: nnx.Dict(
        scorer.init(jax.random.fold_in(keys[3], i), width, num, std)
      )
      for i, (name, (scorer, num)) in enumerate(
        config.router.extra_scorers(choices).items()
      )
    })
    if config.gating_residual:
      w_EE = std * jax.random.normal(keys[4], (num_logits, num_logits))
      self.residual = nnx.Param(
        w_EE, axes=('unsharded', 'unsharded'), decays=True
      )
    self.zero = nnx.Dict(config.zero_computation.init(keys[5], width))
    self.router_state = _router_state(config)
    # Another key than the experts', which split this one.
    of_latent = jax.random.fold_in(keys[1], 1)
    self.latent = nnx.Dict(
      latent.init(of_latent, width, config.latent_width, std)
    )
    self.routed = nnx.Dict(
      config.experts.init(
        keys[1],
        config.num_experts,
        config.latent_width or width,
        config.expert_width,
        std,
      )
    )
    # By name: a model that is bound to weights has no other place for it.
    self.routed_axes = tuple(
      (name, tuple(param.get_metadata()['axes']))
      for name, param in self.routed.items()
    )
    if config.num_shared:
      sizes = (width, config.shared_width)
      self.shared = nnx.Dict(
        config.shared.init(keys[2], config.experts, sizes, std)
      )

  def __call__(
    self,
    x_BLD: jax.Array,
    tokens: Tokens,
    trace: Trace,
    key: jax.Array | None,
    layer: jax.Array | int = 0,
  ) -> tuple[jax.Array, Trace, Record]:
    """Returns out_BLD, the next layer's trace, and what there is to report.

    Args:
      x_BLD: activations in the compute type.
      tokens: what else there is to know of them.
      trace: the layer before's, or `no_trace`.
      key: random key for this layer and step, or None for no noise.
      layer: which layer with experts this is, from 0.
    """
    weights = {
      'router': _arrays(self.router),
      'extra_scorers': {
        name: _arrays(head) for name, head in self.extra_scorers.items()
      },
      'router_state': jax.lax.stop_gradient(
        nnx.to_pure_dict(nnx.state(self.router_state))
      ),
      'routed': _arrays(self.routed, x_BLD.dtype),
      'zero': _arrays(self.zero),
      'latent': _arrays(self.latent, x_BLD.dtype),
    }
    if self.config.gating_residual:
      weights['residual'] = self.residual[...]
    if self.config.reads_responses:
      weights['responses'] = responses.matrix(
        self.router['w_DE'][...].T, self.routed['w_in_ED2F'][...][:, :, 0], key
      )
    routed = self._sharded if self.mesh.size > 1 else self._in_chunks
    given = (weights, x_BLD, tokens, trace, key, jnp.asarray(layer))
    out_BLD, trace, record = routed(*given)
    if self.config.num_shared:
      shared = base.for_dense(_arrays(self.shared, x_BLD.dtype), self._platform)

      def run(x_BLD: jax.Array) -> jax.Array:
        x_TD = x_BLD.reshape(-1, x_BLD.shape[-1])
        out_TD = self.config.shared(shared, self.config.experts, x_TD)
        return out_TD.reshape(x_BLD.shape)

      out_BLD = out_BLD + chunking.map_chunks(
        run, x_BLD, self.chunks, self.mesh
      )
    return out_BLD, trace, record

  def _sharded(self, *given):
    """Each shard of the batch routes its own tokens."""

    def local(weights, x_BLD, *given):
      weights = {**weights, 'routed': self._whole(weights['routed'], x_BLD)}
      out_BLD, trace, record = self._in_chunks(weights, x_BLD, *given)
      reduced = Record(
        jax.lax.psum(record.balance, meshes.BATCH_AXES),
        values.all_reduce(record.stats, meshes.BATCH_AXES),
      )
      return out_BLD, trace, reduced

    rows, whole = PartitionSpec(meshes.BATCH_AXES), PartitionSpec()
    weights = dict.fromkeys(given[0], whole)
    weights['routed'] = {
      name: self._routed_spec(axes) for name, axes in self.routed_axes
    }
    return jax.shard_map(
      local,
      mesh=self.mesh,
      in_specs=(weights, rows, rows, rows, whole, whole),
      out_specs=(rows, rows, whole),
    )(*given)

  def _routed_spec(self, axes: tuple[str, ...]) -> PartitionSpec:
    """How expert weights come in: as they lie, by expert, width and fsdp.

    All experts are gathered at the door where the exchange computes them in
    place.
    """
    whole = {'expert'} if self.config.expert_parallel.gathers_experts else set()
    return PartitionSpec(
      *(None if name in whole else rules.RULES[name] for name in axes)
    )

  def _whole(self, routed, x_BLD) -> dict[str, jax.Array]:
    """Expert weights with what is split over fsdp gathered.

    First they are made as they are computed with, while they are small, and
    said to vary as the rows do: so of their gradients the sum over fsdp, of
    which each device keeps its part, comes before all others.
    """
    axes = dict(self.routed_axes)
    if not self.config.scorer.reads_experts:
      routed = self._compute().prepare(routed)
      # Halves of w_in lie as it does.
      halves = ('w_gate_EDF', 'w_up_EDF')
      axes |= {name: axes['w_in_ED2F'] for name in halves if name in routed}

    def one(w, axes):
      for place, name in enumerate(axes):
        if rules.RULES[name] == 'fsdp' and self.mesh.shape['fsdp'] > 1:
          w = jax.lax.all_gather(
            varying.like(w, x_BLD), 'fsdp', axis=place, tiled=True
          )
      return w

    return {name: one(w, axes[name]) for name, w in routed.items()}

  def _in_chunks(self, weights, x_BLD, tokens, trace, key, layer):
    """`_local` of some rows after the other, which add up to all of them."""
    rows = x_BLD.shape[0]
    number = math.gcd(self.chunks, rows)
    if number == 1:
      return self._local(weights, x_BLD, tokens, trace, key, layer)[0]
    routed, chain = self._chained(weights['routed'], x_BLD)

    def run(part, chain):
      given = {**weights, 'routed': routed, 'grad_accumulator': chain}
      return self._local(given, *part, key, layer)

    join = lambda x: x.reshape(rows, *x.shape[2:])
    out_BLD, new, records = chunking.scan_chunks(
      run, (x_BLD, tokens, trace), number, chain
    )
    each = [jax.tree.map(lambda x, n=n: x[n], records) for n in range(number)]
    record = Record(
      jax.tree.map(lambda x: jnp.sum(x, axis=0), records.balance),
      functools.reduce(values.merge, [one.stats for one in each]),
    )
    return join(out_BLD), jax.tree.map(join, new), record

  def _chained(self, routed, x_BLD) -> tuple[dict[str, jax.Array], Any]:
    """As they are computed with, and what is handed on for their gradient.

    Unless a scorer wants to read them. Across the `expert` axis nothing is
    handed on.
    """
    if self.config.scorer.reads_experts:
      return routed, None
    run = self._compute()
    routed = run.prepare(routed)
    chain = None if self._rows_travel else run.grad_accumulator(routed)
    if chain is None:
      return routed, None
    chain = jax.tree.map(lambda w: varying.like(w, x_BLD), chain)
    return jax.lax.stop_gradient(routed), chain

  @property
  def _rows_travel(self) -> bool:
    """Whether rows travel to their experts."""
    split = self.mesh.shape['expert'] > 1
    return split and not self.config.expert_parallel.gathers_experts

  def _compute(self) -> Compute:
    """How experts are computed on the devices of the mesh."""
    return implementations.choose(self.config, self._platform, remat=self.remat)

  @property
  def _platform(self) -> str:
    return self.mesh.devices.flat[0].platform

  def _local(self, weights, x_BLD, tokens, trace, key, layer):
    """Steps 1 to 5 of some rows, and the chain of `compute.Compute`."""
    config = self.config
    sizes = shapes.dims('B L D', x_BLD)
    x_TD = x_BLD.reshape(-1, sizes['D'])
    flat = lambda x: x.reshape(len(x_TD), *x.shape[2:])
    given, state_TR = self._given(
      weights, x_TD, jax.tree.map(flat, tokens), flat(trace.state_BLR), key
    )
    if config.gating_residual:
      logits_TE = given.logits_TE + jnp.dot(
        flat(trace.logits_BLE),
        weights['residual'],
        precision=jax.lax.Precision.HIGHEST,
      )
      given = dataclasses.replace(given, logits_TE=logits_TE)
    given = dataclasses.replace(given, row_length=sizes['L'], layer=layer)
    routing = config.router(given)
    found = self._experts(weights, x_TD, routing, given.training)
    chosen_TE = stats.chosen(routing)
    seen = stats.observe(given, routing, found.sent_A, flat(trace.chosen_BLE))
    seen['overflow'] = values.Sum(jnp.asarray(found.overflow, jnp.float32))
    routing = self._for_balance(weights, given, routing)
    record = Record(
      balance.observe(config.balance, given, routing, _states(weights)), seen
    )
    unflat = lambda x: x.reshape(sizes['B'], sizes['L'], *x.shape[1:])
    new = Trace(
      chosen_BLE=unflat(chosen_TE),
      logits_BLE=unflat(given.logits_TE)
      if config.gating_residual
      else trace.logits_BLE,
      state_BLR=unflat(state_TR),
    )
    return (unflat(found.out_TD), new, record), found.grad_accumulator

  def _for_balance(self, weights, given, routing) -> contract.Routing:
    """The routing with the probabilities that balance losses want."""
    logits_TE = self.config.scorer.balance_logits(
      weights['router'], given.logits_TE
    )
    if logits_TE is None or logits_TE.shape != routing.prob_TE.shape:
      return routing
    return dataclasses.replace(routing, prob_TE=jax.nn.softmax(logits_TE))

  def _given(
    self, weights, x_TD, tokens, state_TR, key
  ) -> tuple[contract.RouterInput, jax.Array]:
    """What the router sees, and what the next layer's scorer is to see."""
    config = self.config
    x_TD = x_TD.astype(jnp.float32)
    x_TD = config.router.prepare(x_TD, tokens.index_BL, key)

    def seen(scorer, state_TR=None):
      experts = self._all_experts(weights) if scorer.reads_experts else {}
      return ScorerInput(x_TD, tokens.token_BL, experts, state_TR)

    of_main, main = seen(config.scorer, state_TR), weights['router']
    if config.scorer.state_width:
      state_TR = config.scorer.state(main, of_main)
    steps = (
      weights['router_state'].get('router', {}).get('steps', jnp.zeros(()))
    )
    scorers = config.router.extra_scorers(config.num_choices)
    given = contract.RouterInput(
      logits_TE=config.scorer(main, of_main),
      valid_T=tokens.valid_BL,
      index_T=tokens.index_BL,
      key=key,
      row_length=0,
      extra_scores={
        name: scorer(weights['extra_scorers'][name], seen(scorer))
        for name, (scorer, _) in scorers.items()
      },
      token_T=tokens.token_BL,
      steps=steps,
      selection_bias_E=balance.selection_bias(_states(weights)),
      responses_EE=weights.get('responses'),
    )
    return given, state_TR

  def _all_experts(self, weights) -> dict[str, jax.Array]:
    """The weights of all experts; what is not used of them is not moved."""
    if self.config.expert_parallel.gathers_experts or self.mesh.size == 1:
      return weights['routed']
    axes = dict(self.routed_axes)
    return {
      name: jax.lax.all_gather(w, 'expert', axis=0, tiled=True)
      for name, w in weights['routed'].items()
      if axes[name][0] == 'expert'
    }

  def _experts(self, weights, x_TD, routing, training) -> ExpertOutput:
    """The output of all that tokens were sent to."""
    config = self.config
    whole_TD, experts = x_TD, weights['routed']
    is_split = self.mesh.size > 1 and any(
      'mlp' in axes for _, axes in self.routed_axes
    )
    if is_split and 'b_out_ED' in experts:
      # The sum over devices below must have the bias once.
      is_first = jax.lax.axis_index('model') == 0
      bias_ED = jnp.where(is_first, experts['b_out_ED'], 0)
      experts = {**experts, 'b_out_ED': bias_ED}
    run, num = self._compute(), config.num_experts
    limited = config.dispatcher.limit(routing, num, training)
    gated = limited
    if routing.scales_input:
      x_TD = x_TD * limited.weight_A[:, None].astype(x_TD.dtype)
      limited = dataclasses.replace(
        limited, weight_A=jnp.ones_like(limited.weight_A)
      )
    x_TD = latent.down(weights['latent'], x_TD)
    if self._rows_travel:
      found = config.expert_parallel(run, experts, x_TD, limited, num)
    else:
      found = run(experts, x_TD, limited, num, weights.get('grad_accumulator'))
    out_TD = found.out_TD
    if is_split:
      # Each device has summed its part of the hidden width.
      out_TD = jax.lax.psum(out_TD, 'model')
    out_TD = latent.up(weights['latent'], out_TD)
    found = dataclasses.replace(found, out_TD=out_TD)
    return _without_computation(config, weights['zero'], whole_TD, gated, found)


def no_trace(config: MoEConfig, rows: int, length: int) -> Trace:
  """What the first layer is given: nothing chosen, numbers of zero."""
  num_logits = config.num_logits if config.gating_residual else 0
  return Trace(
    chosen_BLE=jnp.zeros((rows, length, config.num_choices), bool),
    logits_BLE=jnp.zeros((rows, length, num_logits), jnp.float32),
    state_BLR=jnp.zeros((rows, length, config.scorer.state_width), jnp.float32),
  )


def _without_computation(
  config: MoEConfig, w: Any, x_TD: jax.Array, routing: Any, found: Any
) -> ExpertOutput:
  """Adds what comes of the tokens without an expert with weights."""
  out_TD, sent_A = found.out_TD, found.sent_A
  if config.zero_computation.num:
    choice_A = routing.expert_A - config.num_experts
    is_one_A = (choice_A >= 0) & (choice_A < config.zero_computation.num)
    choice_A = jnp.where(is_one_A, choice_A, config.zero_computation.num)
    shape = (x_TD.shape[0], config.zero_computation.num)
    gate_TZ = varying.like(jnp.zeros(shape), routing.weight_A)
    gate_TZ = gate_TZ.at[routing.token_A, choice_A].add(
      routing.weight_A, mode='drop'
    )
    out_TD = out_TD + config.zero_computation(w, x_TD, gate_TZ)
    sent_A = sent_A | is_one_A
  if routing.residual_T is not None:
    out_TD = out_TD + routing.residual_T[:, None].astype(x_TD.dtype) * x_TD
  return dataclasses.replace(found, out_TD=out_TD, sent_A=sent_A)


def _states(weights: dict[str, Any]) -> balance.States:
  """By balance part, what it keeps of earlier batches."""
  return {
    name: contract.RouterState.of_arrays(arrays)
    for name, arrays in weights['router_state'].items()
    if name != 'router'
  }


def _router_state(config: MoEConfig) -> nnx.Dict:
  """What balance parts and router keep, as weights that no gradient reaches."""
  states = balance.initial_states(config.balance, config.num_choices)
  found = {name: state.arrays for name, state in states.items()}
  if config.router.counts_steps:
    found['router'] = {'steps': jnp.zeros((), jnp.float32)}
  as_param = lambda x: nnx.Param(x, axes=('unsharded',) * x.ndim, decays=False)
  return nnx.Dict({
    owner: nnx.Dict({name: as_param(x) for name, x in kept.items()})
    for owner, kept in found.items()
  })


def _arrays(weights: nnx.Dict, dtype: Any = None) -> dict[str, jax.Array]:
  return {
    name: param[...] if dtype is None else param[...].astype(dtype)
    for name, param in weights.items()
  }
