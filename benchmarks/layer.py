"""Measures the mixture-of-experts layer, forward and backward.

  python -m benchmarks.step moe                   all of the following
  python -m benchmarks.step moe --only=experts    one of them, or several:
    layer      over a dense SwiGLU of the same active width
    experts    8 to 256 experts at constant active width: time per token
    routers    every router with its default fields, over plain top-k
    expert_parallel  bytes that each way over the mesh's expert axis moves, on
               eight devices, which may be made up: compiled, not run

The shape is that of `bench`, with --rows as many sequences as you like: the
more tokens, the less the reading and writing of all weights counts. All sides
of a comparison run in one process, in turn, because the machine may not be
idle: only the ratios mean something. `of best` compares the best times of two
sides; `of each` is the median of the ratios of the rounds, in which both sides
ran within a moment.
"""

import argparse
import dataclasses
import importlib.util
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from benchmarks import expert_parallel
from benchmarks import parts as parts_lib
from benchmarks.parts import DENSE, MOE, Part, Shape
from moejax.core import command, errors, files, table
from moejax.moe import balance, contract, layer, stats
from moejax.moe.config import MoEConfig
from moejax.moe.routers import ROUTERS
from moejax.moe.scorers.base import ScorerInput

# Numbers of experts, and the one that the others are compared with.
COUNTS, BASE = (8, 16, 32, 64, 128, 256), 16
PLAIN = 'top_k'


def main(argv: Sequence[str], shape: Shape) -> None:
  """Reads the flags that follow the word, and measures."""
  flags = command.parser(__doc__)
  flags.add_argument('--only', default=','.join(SECTIONS), help='what, by name')
  one_or_more = command.number(int, 1)
  flags.add_argument(
    '--rounds', type=one_or_more, default=10, help='of all sides'
  )
  flags.add_argument(
    '--rows', type=one_or_more, default=shape.rows, help='rows of the batch'
  )
  flags.add_argument('--png', help='where to draw the curve over experts')
  args, overrides = command.parse(flags, argv)
  if overrides:
    raise errors.InputError('bench has a fixed shape and takes no --config.*')
  shape = dataclasses.replace(shape, rows=args.rows)
  if args.png and importlib.util.find_spec('matplotlib') is None:
    raise errors.InputError(
      f'--png={args.png} needs matplotlib: pip install '
      "'moejax[plot]', or leave it out"
    )
  if args.png is not None:
    files.check_output(args.png, '--png')
    if not args.png.endswith('.png'):
      raise errors.InputError(f'--png={args.png} must end in .png')
  names = args.only.split(',')
  sections = [table.lookup('--only', SECTIONS, name) for name in names]
  if args.png and _experts not in sections:
    raise errors.InputError(
      f'--png={args.png} draws experts, which --only={args.only} leaves out'
    )
  for section in sections:
    section(shape, args)


def _layer(shape: Shape, args: argparse.Namespace) -> None:
  """Prints the layer over a dense one."""
  parts = [
    Part(MOE, *parts_lib.experts(shape)),
    Part(DENSE, *parts_lib.dense(shape)),
  ]
  seconds = parts_lib.alternate(parts, args.rounds)
  print(f'{_heading(shape, args.rounds)}\n{"":28s}  best ms  median ms')
  for part, mine in zip(parts, seconds, strict=True):
    print(f'{part.name:28s} {_ms(min(mine))}   {_ms(np.median(mine))}')
  best, each = _ratios(*seconds)
  print(
    f'experts over dense: {best:.2f} of best, {each:.2f} of each; '
    'aim: at most 1.3\n'
  )


def _experts(shape: Shape, args: argparse.Namespace) -> None:
  """Prints the time per token by number of experts, and draws it."""
  parts = [
    Part(str(count), *parts_lib.experts(_with(shape, num_experts=count)))
    for count in COUNTS
  ]
  seconds = parts_lib.alternate(parts, args.rounds)
  base = seconds[COUNTS.index(BASE)]
  print(
    f'{_heading(shape, args.rounds)}\n'
    f'experts  best ms  median ms  us a token  over {BASE}: of best  of each'
  )
  for count, mine in zip(COUNTS, seconds, strict=True):
    best, each = _ratios(mine, base)
    print(
      f'{count:7d} {_ms(min(mine))}   {_ms(np.median(mine))}   '
      f'{min(mine) / shape.tokens * 1e6:9.2f}  {best:16.2f}  {each:7.2f}'
    )
  best, each = _ratios(seconds[-1], base)
  print(
    f'from {BASE} to {COUNTS[-1]} experts: {best:.2f} times of best, '
    f'{each:.2f} of each; aim: at most 1.5\n'
  )
  if args.png:
    _draw([min(mine) / shape.tokens * 1e6 for mine in seconds], args.png)
    print(f'drawn in {args.png}\n')


def _draw(micros: list[float], path: str) -> None:
  """The curve: microseconds per token over the number of experts."""
  import matplotlib.figure  # slow to import

  figure = matplotlib.figure.Figure(figsize=(6, 4), layout='constrained')
  axes = figure.subplots()
  axes.plot(COUNTS, micros, marker='o', label='MoE layer, best round')
  aim = 1.5 * micros[COUNTS.index(BASE)]
  axes.axhline(
    aim, linestyle='--', color='gray', label=f'1.5 times {BASE} experts'
  )
  axes.set_xscale('log', base=2)
  axes.set_xticks(COUNTS, map(str, COUNTS))
  axes.set_ylim(bottom=0)
  axes.set_xlabel('experts, at the same active width')
  axes.set_ylabel('microseconds per token, forward and backward')
  axes.legend(loc='lower right')
  figure.savefig(path, dpi=150)


def _routers(shape: Shape, args: argparse.Namespace) -> None:
  """Prints what each router costs, alone and with the whole layer."""
  names = [PLAIN, *(name for name in ROUTERS if name != PLAIN)]
  shapes = [_with(shape, router=ROUTERS[name]()) for name in names]
  key = jax.random.key(3)
  alone = parts_lib.alternate(
    [Part('', *_routing(one, key)) for one in shapes], args.rounds
  )
  whole = parts_lib.alternate(
    [Part('', *parts_lib.experts(one, key)) for one in shapes], args.rounds
  )
  print(
    f'{_heading(shape, args.rounds)}\nscore, route and observe, and the whole '
    f'layer; over {PLAIN} of best and of each\n'
    'router            experts  best ms    over   each  layer ms    over   each'
  )
  for one, name, *mine in zip(shapes, names, alone, whole, strict=True):
    line = f'{name:16s}  {one.config.moe.experts_per_token:7.2f}'
    for seconds, plain in zip(mine, (alone[0], whole[0]), strict=True):
      best, each = _ratios(seconds, plain)
      line += f' {_ms(min(seconds))}  {best:6.2f} {each:6.2f} '
    print(line.rstrip())
  print()


def _routing(shape: Shape, key: jax.Array) -> tuple[Any, Any]:
  """Steps 1, 2 and 4 of `moe.layer`, forward and backward, without experts."""
  moe = shape.config.moe
  module = layer.MoE(
    moe,
    shape.config.width,
    shape.config.init_std,
    parts_lib.mesh(),
    jax.random.key(0),
  )
  graph, weights = nnx.split((module.router, module.heads))
  flat = lambda x: x.reshape(-1, *x.shape[2:])
  tokens = jax.tree.map(flat, parts_lib.tokens(shape))
  experts = {name: param[...] for name, param in module.routed.items()}

  def loss(weights: Any, x_TD: jax.Array) -> Any:
    of_router, of_heads = nnx.merge(graph, weights)
    x_TD = moe.router.prepare(x_TD, tokens.index_BL, key)
    seen = ScorerInput(x_TD, tokens.token_BL, experts)
    arrays = lambda owner: {name: param[...] for name, param in owner.items()}
    given = contract.RouterInput(
      logits_TE=moe.scorer(arrays(of_router), seen),
      valid_T=tokens.valid_BL,
      index_T=tokens.index_BL,
      key=key,
      row_length=shape.length,
      heads={
        name: scorer(arrays(of_heads[name]), seen)
        for name, (scorer, _) in moe.router.heads(moe.num_choices).items()
      },
      token_T=tokens.token_BL,
      memory=balance.memory(moe.balance, moe.num_choices),
    )
    routing = moe.router(given)
    sums = jax.tree.leaves(balance.observe(moe.balance, given, routing))
    sent_A = routing.expert_A < moe.num_experts
    found = stats.observe(given, routing, sent_A)
    total = jnp.sum(routing.weight_A**2) + sum(map(jnp.sum, sums))
    return total, jax.tree.leaves(found)

  gradient = jax.jit(jax.value_and_grad(loss, argnums=(0, 1), has_aux=True))
  return gradient, (weights, flat(parts_lib.hidden(shape)))


def _expert_parallel(shape: Shape, args: argparse.Namespace) -> None:
  """Prints the bytes of each kind, if need be from another process."""
  del args
  if len(jax.devices()) >= expert_parallel.DEVICES:
    expert_parallel.report(shape)
    return
  # How many devices a CPU pretends to be is decided before JAX starts.
  flag = f'--xla_force_host_platform_device_count={expert_parallel.DEVICES}'
  env = dict(os.environ, JAX_PLATFORMS='cpu')
  env['XLA_FLAGS'] = f'{env.get("XLA_FLAGS", "")} {flag}'
  again = [
    sys.executable,
    '-m',
    'benchmarks.step',
    'moe',
    '--only=expert_parallel',
  ]
  done = subprocess.run(
    again, env=env, capture_output=True, text=True, check=False
  )
  if done.returncode:
    said = done.stderr.strip().splitlines() or ['it said nothing']
    raise errors.InputError(
      f'expert_parallel on eight devices failed: {said[-1]}'
    )
  print(done.stdout, end='')


SECTIONS: dict[str, Callable[[Shape, argparse.Namespace], None]] = {
  'layer': _layer,
  'experts': _experts,
  'routers': _routers,
  'expert_parallel': _expert_parallel,
}


def _with(shape: Shape, **fields: Any) -> Shape:
  """The shape with other fields of its experts."""
  moe: MoEConfig = dataclasses.replace(shape.config.moe, **fields)
  config = dataclasses.replace(shape.config, moe=moe)
  return dataclasses.replace(shape, config=config)


def _heading(shape: Shape, rounds: int) -> str:
  moe = shape.config.moe
  return (
    f'({shape.tokens} tokens, width {shape.config.width}, {moe.num_experts} '
    f'experts of {moe.expert_width}, {moe.experts_per_token:g} for a token and '
    f'{moe.num_shared} shared; forward and backward, {rounds} rounds)'
  )


def _ratios(mine: list[float], other: list[float]) -> tuple[float, float]:
  """Of the best times, and the median of the rounds' own ratios."""
  each = np.median(np.array(mine) / np.array(other))
  return min(mine) / min(other), float(each)


def _ms(seconds: float) -> str:
  return f'{seconds * 1e3:8.2f}'
