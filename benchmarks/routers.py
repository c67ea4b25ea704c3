"""Measures every router with its default fields over plain top-k.

python -m benchmarks.routers

Prints for each router two ratios of times, forward and backward: of scores,
choice and statistics alone, and of the whole layer.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from benchmarks import parts, standard, timing
from benchmarks.standard import Shape
from moejax.core import command
from moejax.moe import decide, layer
from moejax.moe.routers import ROUTERS

PLAIN = 'top_k'


def main(argv: Sequence[str]) -> None:
  """Reads the flags and measures."""
  flags = command.parser(__doc__)
  standard.add_flags(flags)
  args = standard.parse(flags, argv)
  shape = standard.shape(args)
  names = [PLAIN, *(name for name in ROUTERS if name != PLAIN)]
  shapes = [shape.with_moe(router=ROUTERS[name]()) for name in names]
  key = jax.random.key(3)
  alone = timing.alternate(
    [timing.Part('', *_routing(one, key)) for one in shapes], args.rounds
  )
  whole = timing.alternate(
    [timing.Part('', *parts.experts(one, key)) for one in shapes], args.rounds
  )
  print(
    f'{shape.heading(args.rounds)}\nscore, route and observe, and the whole '
    f'layer; over {PLAIN} of best and of each\n'
    'router            experts  best ms    over   each  layer ms    over   each'
  )
  for with_router, name, *both in zip(shapes, names, alone, whole, strict=True):
    line = f'{name:16s}  {with_router.config.moe.experts_per_token:7.2f}'
    for seconds, plain in zip(both, (alone[0], whole[0]), strict=True):
      best, each = timing.ratios(seconds, plain)
      line += f' {timing.ms(min(seconds))}  {best:6.2f} {each:6.2f} '
    print(line.rstrip())


def _routing(shape: Shape, key: jax.Array) -> tuple[Any, Any]:
  """Scores, choice and statistics, forward and backward, without experts."""
  config = shape.config
  module = layer.MoE(
    config.moe, config.width, config.init_std, parts.mesh(), jax.random.key(0)
  )
  weights = module.weights(jnp.float32, key)
  tokens = parts.tokens(shape)

  def loss(scorers: Any, x_TD: jax.Array) -> Any:
    scorer, extra_scorers = scorers
    trained = dataclasses.replace(
      weights, scorer=scorer, extra_scorers=extra_scorers
    )
    decision = decide.route(config.moe, trained, x_TD, tokens, key=key)
    sent_A = decision.limited.expert_A < config.moe.num_experts
    record = decide.observe(config.moe, trained, decision, sent_A)
    sums = jax.tree.leaves(record.balance)
    total = jnp.sum(decision.routing.weight_A**2) + sum(map(jnp.sum, sums))
    return total, jax.tree.leaves(record.stats)

  gradient = jax.jit(jax.value_and_grad(loss, argnums=(0, 1), has_aux=True))
  scorers = (weights.scorer, weights.extra_scorers)
  x_TD = parts.hidden(shape).reshape(-1, config.width)
  return gradient, (scorers, x_TD)


if __name__ == '__main__':
  timing.main(main)
