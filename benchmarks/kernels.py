"""Measures the implementations in each table, side by side.

python -m benchmarks.kernels --rounds=20

Prints the best time of each, forward and backward, at the standard shape: of
attention, of routed experts, and of output head and loss. What `auto` takes is
chosen by these figures.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from benchmarks import parts, standard, timing
from moejax.core import command
from moejax.model.attention import dot_product
from moejax.model.config import ModelConfig
from moejax.moe import contract
from moejax.moe.compute import implementations
from moejax.train import cross_entropy

# Slow on purpose: they are what the others are tested against.
REFERENCES = ('reference',)


@dataclasses.dataclass(frozen=True)
class TimedKernel:
  """One implementation of a job.

  Attributes:
    job: what it computes.
    name: of the implementation in its table.
    run: forward and backward, jitted.
    arguments: of `run`.
  """

  job: str
  name: str
  run: Callable[..., Any]
  arguments: tuple[Any, ...]


def main(argv: Sequence[str]) -> None:
  """Reads the flags and measures."""
  flags = command.parser(__doc__)
  standard.add_flags(flags)
  args = standard.parse(flags, argv)
  shape = standard.shape(args)
  all_kernels = kernels(shape.config, shape.rows, shape.length)
  timed = [timing.Part(k.name, k.run, k.arguments) for k in all_kernels]
  print(
    f'(forward and backward, best of {args.rounds} rounds of all in turn; '
    f'{shape.arithmetic})'
  )
  seconds = timing.best(timed, args.rounds)
  for kernel, best in zip(all_kernels, seconds, strict=True):
    print(f'{kernel.job:16s} {kernel.name:12s} {best * 1e3:8.1f} ms')


def kernels(config: ModelConfig, rows: int, length: int) -> list[TimedKernel]:
  """Every implementation of attention, routed experts, and head and loss."""
  return [
    *_attentions(config, rows, length),
    *_experts(config, rows, length),
    *_heads(config, rows, length),
  ]


def _gradient(loss: Callable[..., Any], num: int) -> Callable[..., Any]:
  return jax.jit(jax.value_and_grad(loss, argnums=tuple(range(num))))


def _attentions(
  config: ModelConfig, rows: int, length: int
) -> list[TimedKernel]:
  shape = (3, rows, length, config.num_heads, config.head_dim)
  q, k, v = jax.random.normal(jax.random.key(0), shape, config.dtype)
  segment_BL = jnp.ones((rows, length), jnp.int32)

  def kernel(name: str) -> TimedKernel:
    loss = lambda q, k, v: jnp.sum(
      dot_product.ATTENTIONS[name](q, k, v, segment_BL).astype(jnp.float32) ** 2
    )
    return TimedKernel('attention core', name, _gradient(loss, 3), (q, k, v))

  return [
    kernel(name) for name in dot_product.ATTENTIONS if name not in REFERENCES
  ]


def _experts(config: ModelConfig, rows: int, length: int) -> list[TimedKernel]:
  moe, num_tokens = config.moe, rows * length
  platform = jax.devices()[0].platform
  keys = jax.random.split(jax.random.key(1), 3)
  params = moe.experts.init(
    keys[0], moe.num_experts, config.width, moe.expert_width, 0.02
  )
  weights = {name: p[...] for name, p in params.items()}
  x_TD = jax.random.normal(keys[1], (num_tokens, config.width), config.dtype)
  router_input = contract.RouterInput(
    logits_TE=jax.random.normal(keys[2], (num_tokens, moe.num_experts)),
    valid_T=jnp.ones(num_tokens, bool),
    index_T=jnp.arange(num_tokens),
    key=None,
    row_length=length,
  )
  routing = moe.router(router_input)

  def kernel(name: str) -> TimedKernel:
    way = dataclasses.replace(moe, grouped_matmul=name)
    run = implementations.choose(way, platform)

    def loss(weights: Any, x_TD: jax.Array) -> jax.Array:
      weights = jax.tree.map(lambda w: w.astype(x_TD.dtype), weights)
      out_TD = run(weights, x_TD, routing, moe.num_experts).out_TD
      return jnp.sum(out_TD.astype(jnp.float32) ** 2)

    return TimedKernel(
      'routed experts', name, _gradient(loss, 2), (weights, x_TD)
    )

  return [
    kernel(name)
    for name, way in implementations.IMPLEMENTATIONS.items()
    if name not in REFERENCES and not way.refuses(moe, platform)
  ]


def _heads(config: ModelConfig, rows: int, length: int) -> list[TimedKernel]:
  keys = jax.random.split(jax.random.key(2), 3)
  size = (rows, length, config.width)
  x_BLD = jax.random.normal(keys[0], size, config.dtype)
  shape = (config.width, config.vocab_size)
  w_DV = 0.02 * jax.random.normal(keys[1], shape)
  target_BL = jax.random.randint(keys[2], (rows, length), 0, config.vocab_size)
  one_BL = jnp.ones((rows, length))
  on = parts.mesh()

  def whole(x_BLD: jax.Array, w_DV: jax.Array) -> jax.Array:
    logits_BLV = x_BLD @ w_DV.astype(x_BLD.dtype)
    log_prob_BLV = jax.nn.log_softmax(logits_BLV.astype(jnp.float32))
    return -jnp.take_along_axis(log_prob_BLV, target_BL[..., None], -1).sum()

  def chunked(x_BLD: jax.Array, w_DV: jax.Array) -> jax.Array:
    w_DV = w_DV.astype(x_BLD.dtype)
    return cross_entropy.on_mesh(x_BLD, w_DV, target_BL, one_BL, on)[0]

  return [
    TimedKernel('head and loss', name, _gradient(loss, 2), (x_BLD, w_DV))
    for name, loss in (('in chunks', chunked), ('all at once', whole))
  ]


if __name__ == '__main__':
  timing.main(main)
