"""Compares the chosen path with the reference on this machine, before step 0.

Kernels for grouped matmuls and collectives have been silently wrong, mostly in
gradients and mostly for experts without tokens. So the configured dispatcher
and grouped matmul are run on a small batch in which one expert gets nothing,
and outputs and gradients are compared with the slow, obvious ones.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from moejax.core import errors
from moejax.moe import compute, contract, grouped_matmul
from moejax.moe.config import MoEConfig
from moejax.moe.dispatchers import reference

# Of the largest value; a path that is wrong is off by its own size.
TOLERANCE = {'float32': 1e-4, 'bfloat16': 5e-2}
# Matmuls of float32 are not done in float32 by default there.
TOLERANCE_ACCELERATOR = 5e-2


@dataclasses.dataclass(frozen=True)
class Size:
  """Of the small batch."""

  rows: int = 4
  row_length: int = 256
  width: int = 16
  hidden: int = 8


def run(
  config: MoEConfig, dtype: str, platform: str, size: Size = Size()
) -> None:
  """Checks forward and gradients.

  Args:
    config: the layer; its sizes are replaced by small ones.
    dtype: compute type.
    platform: of the devices, for the choice of implementations.
    size: of the small batch.

  Raises:
    StoppedError: it names what differs and by how much.
  """
  tolerance = TOLERANCE[dtype]
  if platform != 'cpu':
    tolerance = max(tolerance, TOLERANCE_ACCELERATOR)
  for name, error in differences(config, dtype, platform, size).items():
    if not error <= tolerance:
      raise errors.StoppedError(
        f'self-check: {name} of the experts differs by {error:.2g} of its size '
        f'from the reference (dispatcher {config.dispatcher}, grouped matmul '
        f'{config.grouped_matmul!r} on {platform}); set '
        'model.moe.grouped_matmul or model.moe.dispatcher to another one'
      )


def differences(
  config: MoEConfig, dtype: str, platform: str, size: Size = Size()
) -> dict[str, float]:
  """By output and gradient: the largest error over the largest value."""
  weights, x_TD, routing, pull_TD = _problem(config, dtype, size)
  chosen = compute.choose(config, platform)
  obvious = compute.Stages(
    reference.Reference(), config.experts, grouped_matmul.Reference()
  )
  # What the dispatcher drops, the reference is asked to send nowhere.
  sent_A = chosen(weights, x_TD, routing).sent_A
  kept = dataclasses.replace(
    routing,
    expert_A=jnp.where(sent_A, routing.expert_A, config.num_experts),
  )

  def found(run: compute.Compute, routing: contract.Routing) -> Any:
    def loss(weights: Any, x_TD: jax.Array, weight_A: jax.Array) -> Any:
      with_weight = dataclasses.replace(routing, weight_A=weight_A)
      out_TD = run(weights, x_TD, with_weight).out_TD
      return jnp.vdot(out_TD.astype(jnp.float32), pull_TD), out_TD

    gradient = jax.jit(jax.grad(loss, argnums=(0, 1, 2), has_aux=True))
    (of_weights, of_x, of_gates), out = gradient(
      weights, x_TD, routing.weight_A
    )
    return {
      'output': out,
      'gradient of the tokens': of_x,
      'gradient of the gates': jnp.where(sent_A, of_gates, 0),
      **{f'gradient of {name}': g for name, g in of_weights.items()},
    }

  got, want = found(chosen, routing), found(obvious, kept)
  return {name: _error(got[name], want[name]) for name in want}


def _error(got: jax.Array, want: jax.Array) -> float:
  got, want = got.astype(jnp.float32), want.astype(jnp.float32)
  scale = jnp.maximum(jnp.max(jnp.abs(want)), 1e-9)
  return float(jnp.max(jnp.abs(got - want)) / scale)


def _problem(config: MoEConfig, dtype: str, size: Size) -> Any:
  """Weights, tokens, a routing with an empty expert, and a cotangent."""
  keys = jax.random.split(jax.random.key(0), 4)
  num_tokens = size.rows * size.row_length
  params = config.experts.init(
    keys[0], config.num_experts, size.width, size.hidden, 1.0
  )
  weights = {name: p[...].astype(dtype) for name, p in params.items()}
  shape = (num_tokens, size.width)
  x_TD = jax.random.normal(keys[1], shape).astype(dtype)
  logits_TE = jax.random.normal(keys[2], (num_tokens, config.num_experts))
  # The last expert gets most tokens, so that long runs of rows are tried too.
  logits_TE = logits_TE.at[:, -1].add(3.0)
  if config.num_experts > config.router.experts_per_token:
    logits_TE = logits_TE.at[:, 0].set(-30.0)
  given = contract.RouterInput(
    logits_TE=logits_TE,
    valid_T=jnp.arange(num_tokens) > 0,
    index_T=jnp.arange(num_tokens, dtype=jnp.int32),
    key=None,
    row_length=size.row_length,
  )
  pull_TD = jax.random.normal(keys[3], shape)
  return weights, x_TD, config.router(given), pull_TD
