"""Measures every router with its default fields over plain top-k.

python -m benchmarks.routers

Prints for each router two ratios of times, forward and backward: of scores,
choice and statistics alone, and of the whole layer.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from benchmarks import parts, standard, timing
from benchmarks.standard import Shape
from moejax.core import command, exits
from moejax.moe import balance, contract, layer, stats
from moejax.moe.routers import ROUTERS
from moejax.moe.scorers.base import ScorerInput

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
  for one, name, *mine in zip(shapes, names, alone, whole, strict=True):
    line = f'{name:16s}  {one.config.moe.experts_per_token:7.2f}'
    for seconds, plain in zip(mine, (alone[0], whole[0]), strict=True):
      best, each = timing.ratios(seconds, plain)
      line += f' {timing.ms(min(seconds))}  {best:6.2f} {each:6.2f} '
    print(line.rstrip())


def _routing(shape: Shape, key: jax.Array) -> tuple[Any, Any]:
  """Steps 1, 2 and 4 of `moe.layer`, forward and backward, without experts."""
  moe = shape.config.moe
  module = layer.MoE(
    moe,
    shape.config.width,
    shape.config.init_std,
    parts.mesh(),
    jax.random.key(0),
  )
  graph, weights = nnx.split((module.router, module.extra_scorers))
  flat = lambda x: x.reshape(-1, *x.shape[2:])
  tokens = jax.tree.map(flat, parts.tokens(shape))
  experts = {name: param[...] for name, param in module.routed.items()}
  extra_scorers = moe.router.extra_scorers(moe.num_choices)
  states = balance.initial_states(moe.balance, moe.num_choices)

  def loss(weights: Any, x_TD: jax.Array) -> Any:
    of_router, of_extra = nnx.merge(graph, weights)
    x_TD = moe.router.prepare(x_TD, tokens.index_BL, key)
    seen = ScorerInput(x_TD, tokens.token_BL, experts)
    arrays = lambda owner: {name: param[...] for name, param in owner.items()}
    given = contract.RouterInput(
      logits_TE=moe.scorer(arrays(of_router), seen),
      valid_T=tokens.valid_BL,
      index_T=tokens.index_BL,
      key=key,
      row_length=shape.length,
      extra_scores={
        name: scorer(arrays(of_extra[name]), seen)
        for name, (scorer, _) in extra_scorers.items()
      },
      token_T=tokens.token_BL,
      selection_bias_E=balance.selection_bias(states),
    )
    routing = moe.router(given)
    sums = jax.tree.leaves(balance.observe(moe.balance, given, routing, states))
    sent_A = routing.expert_A < moe.num_experts
    found = stats.observe(given, routing, sent_A)
    total = jnp.sum(routing.weight_A**2) + sum(map(jnp.sum, sums))
    return total, jax.tree.leaves(found)

  gradient = jax.jit(jax.value_and_grad(loss, argnums=(0, 1), has_aux=True))
  return gradient, (weights, flat(parts.hidden(shape)))


if __name__ == '__main__':
  exits.main(main)
