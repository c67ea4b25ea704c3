"""Measures how fast checkpoints are traced, beside plain evaluation.

  python -m benchmarks.trace
  python -m benchmarks.trace --logits
  python -m benchmarks.trace --vocab_size=512

The standard shape reads the same made-up rows in turn for both sides: one
computes the loss, as moejax.cli.evaluate does; the other computes the routings
and writes them as Parquet, as moejax.cli.trace does. Printed is the speed of
tracing over that of evaluation, in tokens per second. Tracing leaves out the
output head; with a small vocabulary that saves next to nothing.
"""

import pathlib
import statistics
import tempfile
from collections.abc import Sequence
from typing import Any

import jax

from benchmarks import standard, timing
from benchmarks.timing import Part
from moejax.analysis.trace_file import Header
from moejax.core import command
from moejax.data.synthetic import Synthetic
from moejax.evals import batches, perplexity
from moejax.model import build
from moejax.parallel import mesh as meshes
from moejax.run import tracing
from moejax.run.traced_text import TracedText

NAME = 'synthetic'


def main(argv: Sequence[str]) -> None:
  """Reads the flags and measures."""
  flags = command.parser(__doc__)
  add, one_or_more = flags.add_argument, command.number(int, 1)
  add('--batches', type=one_or_more, default=4, help='read in each round')
  add('--rounds', type=one_or_more, default=5, help='of both sides')
  add('--logits', action='store_true', help="trace the router's logits too")
  add(
    '--vocab_size',
    type=command.number(int, 16),
    default=standard.STANDARD.config.vocab_size,
    help='number of ids (default: %(default)s)',
  )
  standard.add_dtype(flags)
  args = standard.parse(flags, argv)
  shape = standard.STANDARD.with_model(
    dtype=args.dtype, vocab_size=args.vocab_size
  )
  with tempfile.TemporaryDirectory() as folder:
    path = pathlib.Path(folder) / 'trace.parquet'
    sides, tokens = _sides(shape, path, args.batches, args.logits)
    plain, traced = timing.alternate(sides, args.rounds)
    size = path.stat().st_size
  for side, seconds in zip(sides, (plain, traced), strict=True):
    rate = tokens / statistics.median(seconds)
    print(f'{side.name:12} {rate:10,.0f} tokens/s')
  _, ratio = timing.ratios(plain, traced)
  print(
    f'tracing / evaluation: {ratio:.2f} of the tokens/s ({tokens:,} tokens, '
    f'{size / tokens:.0f} bytes each, {args.vocab_size} ids, {args.rounds} '
    f'rounds, {shape.arithmetic})'
  )


def _sides(
  shape: standard.Shape, path: pathlib.Path, num_batches: int, logits: bool
) -> tuple[list[Part], int]:
  """Evaluation and tracing of the same rows, and the number of tokens."""
  mesh = meshes.make(meshes.MeshConfig(data=1), jax.devices()[:1])
  model = build.build(shape.config, mesh)
  weights = model.init(jax.random.key(0))
  reader: Any = Synthetic(
    length=shape.length,
    vocab_size=shape.config.vocab_size,
    eos_id=1,
    num_rows=num_batches * batches.rows_per_batch(model),
    seed=0,
    first_id=0,
  )
  text = TracedText({NAME: reader}, {NAME: reader.num_rows})
  header = Header(
    step=0,
    tokens_seen=0,
    layers=tracing.layers_of(model),
    num_experts=shape.config.moe.num_choices,
    domains=(NAME,),
  )
  step = perplexity.make_step(model)

  def evaluate() -> None:
    rows = batches.eval_batches(model, reader, 0)
    perplexity.evaluate(step, weights, rows)

  def trace() -> None:
    traced = tracing.trace(model, weights, text, logits=logits)
    tracing.write(path, header, traced)

  sides = [Part('evaluation', evaluate, ()), Part('tracing', trace, ())]
  return sides, reader.num_rows * reader.length


if __name__ == '__main__':
  timing.main(main)
