"""Measures a training step on this machine, part by part.

  python -m benchmarks.step                       the step and its parts
  python -m benchmarks.step --dtype=bfloat16      computed in bfloat16
  python -m benchmarks.step --peer=transformers   beside a peer, alternately
  python -m benchmarks.step --peer=maxtext --peer_python=PATH

Prints the time of each part, its share of the machine's peak, and the ratio of
experts to a dense layer of the same active width; with a peer the ratio of both
speeds.

The standard shape: width 256, 4 layers all with experts, 8 heads of 32, 16
routed experts of width 128 top-4 and 1 shared, vocabulary 8192, 8 sequences of
256 tokens, AdamW, gradient norm clipped to 1. Both sides compute in --dtype,
with weights in float32. With a peer both sides run in processes of their own,
one after the other and several times, because the machine may not be idle: only
the ratio means something.
"""

import json
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from benchmarks import parts as parts_lib
from benchmarks import peers, standard, timing
from benchmarks.parts import DENSE, MOE, PEAK
from benchmarks.standard import Shape
from benchmarks.timing import WARM_UP, Part
from moejax.core import command, errors
from moejax.model import build
from moejax.parallel import hosts
from moejax.plan import count
from moejax.train import optimizer, state, step
from moejax.train.config import TrainConfig

STEP = 'training step'


def main(argv: Sequence[str]) -> None:
  """Reads the flags and measures."""
  flags = command.parser(__doc__)
  flags.add_argument('--peer', choices=sorted(peers.PEERS))
  flags.add_argument(
    '--peer_python', default=sys.executable, help='a Python that has the peer'
  )
  one_or_more = command.number(int, 1)
  flags.add_argument(
    '--steps', type=one_or_more, default=10, help='timed, each time'
  )
  flags.add_argument(
    '--rounds', type=one_or_more, default=4, help='of both sides'
  )
  flags.add_argument(
    '--side', choices=['moejax'], help='(measures one side and prints JSON)'
  )
  flags.add_argument(
    '--unroll',
    type=int,
    default=standard.STANDARD.config.scan_unroll,
    help='layers in a turn of the loop over layers (default: %(default)s)',
  )
  standard.add_dtype(flags)
  args = standard.parse(flags, argv)
  shape = standard.STANDARD.with_model(
    scan_unroll=args.unroll, dtype=args.dtype
  )
  if args.side:
    print(json.dumps(time_step(shape, args.steps)))
  elif args.peer:
    compare(args, shape)
  else:
    report(shape, args.steps)


def compare(args: Any, shape: Shape) -> None:
  """Runs both sides alternately and prints the ratio of their speeds."""
  peer = peers.PEERS[args.peer]
  peers.check_python(args.peer_python, peer.needs, f'--peer={args.peer}')
  own = [sys.executable, '-m', 'benchmarks.step', '--side=moejax']
  own += [f'--steps={args.steps}', f'--unroll={args.unroll}']
  own += [f'--dtype={args.dtype}']
  task = peers.task(shape, args.steps, 'cpu')
  other = [args.peer_python, '-c', peer.program, task]
  seconds: dict[str, list[float]] = {'moejax': [], args.peer: []}
  for number in range(args.rounds):
    for name, command_line in (('moejax', own), (args.peer, other)):
      measured = side(command_line)
      seconds[name] += measured['seconds']
      times = measured['seconds']
      print(
        f'round {number + 1} {name:13s} best {_speed(min(times))}, '
        f'median {_speed(np.median(times))} tokens/s, '
        f'peak memory {measured["peak_mb"]:.0f} MB  {measured.get("what", "")}'
      )
  ours, theirs = seconds['moejax'], seconds[args.peer]
  print(
    f'moejax / {args.peer}: best {min(theirs) / min(ours):.2f}, '
    f'median {np.median(theirs) / np.median(ours):.2f} '
    f'({args.rounds} rounds of {args.steps} steps each, {shape.arithmetic})'
  )


def side(command_line: list[str]) -> dict[str, Any]:
  """Runs one side in a process of its own; returns the JSON that it prints."""
  try:
    done = subprocess.run(
      command_line, capture_output=True, text=True, check=False
    )
  except OSError as e:
    raise errors.InputError(
      f'--peer_python={command_line[0]} cannot be run: {e.strerror}'
    ) from None
  if done.returncode:
    lines = done.stderr.strip().splitlines() or ['no error was printed']
    raise errors.InputError(
      f'one side of the benchmark failed with code {done.returncode} '
      f'({command_line[0]}): {lines[-1][-300:]}'
    )
  return json.loads(done.stdout.strip().splitlines()[-1])


def _speed(seconds: float) -> str:
  return f'{standard.STANDARD.tokens / seconds:6.0f}'


def time_step(shape: Shape, steps: int) -> dict[str, Any]:
  """Seconds of each step, after compilation; compile time; peak memory."""
  run, compile_seconds = _training_step(shape)
  seconds = []
  for _ in range(WARM_UP + steps):
    begin = time.perf_counter()
    run()
    seconds.append(time.perf_counter() - begin)
  return {
    'seconds': seconds[WARM_UP:],
    'compile_seconds': compile_seconds,
    'peak_mb': timing.peak_mb(),
  }


def _training_step(shape: Shape) -> tuple[Callable[[], Any], float]:
  """A function that takes a step and waits for it, and its compile time."""
  mesh = parts_lib.mesh()
  model = build.build(shape.config, mesh)
  opt, train = optimizer.OptimizerConfig(), TrainConfig(steps=1000)
  transform = optimizer.make(opt, train.steps, model.decays)
  train_step = step.make(model, transform, opt, train, seed=0)
  # The state is donated, as in training: each call goes on from the last.
  kept = [state.init(model, transform, jax.random.key(0))]
  batch = hosts.put_rows(parts_lib.batch(shape), mesh)
  begin = time.perf_counter()
  compiled = train_step.lower(kept[0], batch).compile()
  compile_seconds = time.perf_counter() - begin

  def run() -> float:
    kept[0], metrics = compiled(kept[0], batch)
    return float(metrics['loss'])

  return run, compile_seconds


def report(shape: Shape, rounds: int) -> None:
  """Prints the step, its parts, and the peak they are measured against."""
  run, compile_seconds = _training_step(shape)
  flops = count.flops_per_token(shape.config, shape.length) * shape.tokens
  parts = [Part(STEP, run, (), flops, 1), *parts_lib.parts(shape)]
  names = [part.name for part in parts]
  best = dict(zip(names, timing.best(parts, rounds), strict=True))
  peak = next(p.flops for p in parts if p.name == PEAK) / best[PEAK]
  dtype = shape.config.dtype
  print(f'{dtype:8s} matmul of 1024 cubed  {peak / 1e9:6.0f} GFLOP/s: the peak')
  print(
    f'training step    {_speed(best[STEP])} tokens/s; compiles in '
    f'{compile_seconds:.1f} s; peak memory of the process '
    f'{timing.peak_mb():.0f} MB'
  )
  share = flops / best[STEP] / peak
  print(f'model FLOPs utilisation        {share:6.1%} of the peak')
  print(f'\n(best of {rounds} rounds of all parts in turn; {shape.arithmetic})')
  print('part, forward and backward       ms  times  GFLOP/s  of peak')
  rest = best[STEP]
  for part in parts:
    if part.name == PEAK:
      continue
    if not part.name.startswith((' ', STEP)):
      rest -= part.times * best[part.name]
    rate = part.flops / best[part.name]
    print(
      f'{part.name:28s} {best[part.name] * 1e3:7.1f}  {part.times:5d}  '
      f'{rate / 1e9:7.0f}  {rate / peak:7.1%}'
    )
  print(f'{"all else":28s} {rest * 1e3:7.1f}')
  ratio = best[MOE] / best[DENSE]
  print(f'\nexperts over a dense layer of the same active width: {ratio:.2f}')


if __name__ == '__main__':
  timing.main(main)
