"""Every device gathers all tokens; outputs are summed and scattered back."""

import dataclasses

import jax
import jax.numpy as jnp

from moejax.moe import contract
from moejax.moe.compute.base import Compute, ExpertOutput
from moejax.moe.expert_parallel.base import AXIS, ExpertParallel


@dataclasses.dataclass(frozen=True)
class AllGather:
  """All-gather of tokens and routing, own experts, reduce-scatter of outputs.

  No buffer can overflow, so this is the dropless fallback of the other kinds.
  Bytes that a device receives per layer in the forward pass, with T tokens on
  each of P devices and b bytes per number: (P - 1) T D b by the all-gather and
  as many by the reduce-scatter, whatever K is, and 8 (P - 1) A for the A
  assignments of each device. The backward pass moves as many rows. It moves
  fewer bytes than an all-to-all when K is at least P.

  Example, P = 2, 4 experts, K = 1, one token on each device:

    device  token  expert     all-gather    own experts    reduce-scatter
    0       u      3       -> u v        -> 0, 1: v     -> f3(u)
    1       v      0       -> u v        -> 2, 3: u     -> f0(v)
  """

  @property
  def gathers_experts(self) -> bool:
    return False

  def row_overhead(self, num_devices: int) -> float:
    return float(num_devices)

  def lossless(self, num_devices: int) -> tuple[ExpertParallel, ...]:
    del num_devices
    return (self,)

  def __call__(
    self,
    compute: Compute,
    weights: dict[str, jax.Array],
    x_TD: jax.Array,
    routing: contract.Routing,
    num_experts: int,
  ) -> ExpertOutput:
    num_devices = jax.lax.axis_size(AXIS)
    own = num_experts // num_devices
    global_routing = all_routings(routing, x_TD.shape[0], num_devices)
    local_A = global_routing.expert_A - jax.lax.axis_index(AXIS) * own
    is_own_A = (local_A >= 0) & (local_A < own)
    own_routing = dataclasses.replace(
      global_routing, expert_A=jnp.where(is_own_A, local_A, own)
    )
    x_all = jax.lax.all_gather(x_TD, AXIS, axis=0, tiled=True)
    out_all = compute(weights, x_all, own_routing, own).out_TD
    out_TD = jax.lax.psum_scatter(
      out_all, AXIS, scatter_dimension=0, tiled=True
    )
    return ExpertOutput(
      out_TD, routing.expert_A < num_experts, jnp.zeros((), jnp.float32)
    )


def all_routings(
  routing: contract.Routing, num_tokens: int, num_devices: int
) -> contract.Routing:
  """The routings of all devices, gathered into one list on every device.

  Tokens are numbered through all devices. A list with K outermost stays one.

  Args:
    routing: of this device's tokens.
    num_tokens: T, of this device.
    num_devices: P.
  """
  k = routing.per_token
  all_gather = lambda x, dim: jax.lax.all_gather(x, AXIS, axis=dim, tiled=True)
  if k is not None:
    gather = lambda x_A: all_gather(x_A.reshape(k, num_tokens), 1).reshape(-1)
    total = num_devices * num_tokens
    token_A = jnp.tile(jnp.arange(total, dtype=jnp.int32), k)
  else:
    gather = lambda x_A: all_gather(x_A, 0)
    shift = jax.lax.axis_index(AXIS) * num_tokens
    token_A = gather(routing.token_A + shift)
  return dataclasses.replace(
    routing,
    token_A=token_A,
    expert_A=gather(routing.expert_A),
    weight_A=gather(routing.weight_A),
    extra={},
  )
