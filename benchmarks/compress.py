"""Measures calibration: its speed beside evaluation, and its memory by layer.

  python -m benchmarks.compress
  python -m benchmarks.compress --layers=8 --folder=/tmp/deepseek_moe_16b \
    --keep=32

The first call: the standard shape reads the same made-up rows in turn for both
sides. One computes the loss, as moejax.cli.evaluate does; the other sums what
the experts do, as moejax.cli.compress does. Printed is the time of calibration
over that of evaluation. Calibration leaves out the output head, as a model with
few ids nearly does.

The second call writes DeepSeekMoE 16B (arXiv 2401.06066) at full width with
some of its 28 layers as a Hugging Face folder of random bfloat16 weights, and
calibrates it one layer at a time. Printed are the bytes of one layer in float32
and the largest resident memory of the process. The folder is left where it is
and used again. With --keep, EASY-EP then removes all but so many experts of
each layer, and the smaller model is written to FOLDER_KEEP layer by layer.
"""

import dataclasses
import hashlib
import pathlib
import statistics
import time
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from benchmarks import standard, timing
from benchmarks.timing import Part
from moejax.compress import METHODS, methods
from moejax.compress.statistics import ExpertStatistics
from moejax.config import loading
from moejax.convert import folder as folders
from moejax.convert import load, save
from moejax.core import command, trees
from moejax.data.synthetic import Synthetic
from moejax.evals import batches, perplexity
from moejax.model import build
from moejax.model.config import ModelConfig
from moejax.parallel import mesh as meshes
from moejax.run import calibrating, layer_source, layerwise_calibration
from moejax.run.full_model import FullModel, SmallerLeaf
from moejax.run.traced_text import TracedText

NAME = 'synthetic'
LARGE = 'configs/released.py:deepseek_moe_16b'


def main(argv: Sequence[str]) -> None:
  """Reads the flags and measures."""
  flags = command.parser(__doc__)
  add, one_or_more = flags.add_argument, command.number(int, 1)
  add('--batches', type=one_or_more, default=4, help='read in each round')
  add('--rounds', type=one_or_more, default=5, help='of both sides')
  add(
    '--vocab_size',
    type=command.number(int, 16),
    default=standard.STANDARD.config.vocab_size,
    help='number of ids (default: %(default)s)',
  )
  add('--folder', help='where a model of 16B is written and calibrated')
  add('--layers', type=command.number(int, 2), default=4, help='of that model')
  add('--tokens', type=one_or_more, default=512, help='that it reads')
  add('--keep', type=one_or_more, help='experts of a layer that stay')
  standard.add_dtype(flags)
  args = standard.parse(flags, argv)
  if args.folder:
    by_layer(pathlib.Path(args.folder), args.layers, args.tokens, args.keep)
    return
  shape = standard.STANDARD.with_model(
    dtype=args.dtype, vocab_size=args.vocab_size
  )
  sides, tokens = _sides(shape, args.batches)
  plain, calibrated = timing.alternate(sides, args.rounds)
  for side, seconds in zip(sides, (plain, calibrated), strict=True):
    rate = tokens / statistics.median(seconds)
    print(f'{side.name:12} {rate:10,.0f} tokens/s')
  _, ratio = timing.ratios(calibrated, plain)
  print(
    f'calibration / evaluation: {ratio:.2f} of the time ({tokens:,} tokens, '
    f'{args.vocab_size} ids, {args.rounds} rounds, {shape.arithmetic})'
  )


def _sides(shape: standard.Shape, num_batches: int) -> tuple[list[Part], int]:
  """Evaluation and calibration of the same rows, and the number of tokens."""
  mesh = meshes.make(meshes.MeshConfig(data=1), jax.devices()[:1])
  model = build.build(shape.config, mesh)
  weights = model.init(jax.random.key(0))
  num_rows = num_batches * batches.rows_per_batch(model)
  reader = _rows(shape.config, shape.length, num_rows)
  text = TracedText({NAME: reader}, {NAME: num_rows})
  step = perplexity.make_step(model)

  def evaluate() -> None:
    rows = batches.eval_batches(model, reader, 0)
    perplexity.evaluate(step, weights, rows)

  def calibrate() -> None:
    calibrating.calibrate(model, weights, text)

  sides = [
    Part('evaluation', evaluate, ()),
    Part('calibration', calibrate, ()),
  ]
  return sides, num_rows * shape.length


def _rows(config: ModelConfig, length: int, num_rows: int) -> Any:
  """Made-up rows of a model's ids."""
  return Synthetic(
    length=length,
    vocab_size=config.vocab_size,
    eos_id=1,
    num_rows=num_rows,
    seed=0,
    first_id=0,
  )


def by_layer(
  folder: pathlib.Path, layers: int, tokens: int, keep: int | None = None
) -> None:
  """Calibrates a large model on disk one layer at a time, and prints memory.

  Args:
    folder: of its weights; written if it does not exist.
    layers: number of its layers, the first of which is dense.
    tokens: number of tokens of the calibration text.
    keep: experts of each layer that stay in a smaller model, which is written
      beside the folder; None for no smaller model.
  """
  run = loading.load(
    LARGE, [('model.num_layers', f'{layers}'), ('model.dtype', 'float32')]
  )
  config = run.model
  if not folder.exists():
    shapes = load.shapes(config)
    leaves = trees.leaves(shapes)
    save.write(
      save.plan(config, shapes),
      lambda path: Drawn(path, leaves[path].shape),
      folder,
      dtype='bfloat16',
    )
  plan = load.plan(folders.open_folder(str(folder)))
  mesh = meshes.make(meshes.MeshConfig(data=1), jax.devices()[:1])
  model = build.build(plan.config, mesh)
  length = min(tokens, 256)
  reader = _rows(plan.config, length, -(-tokens // length))
  begin = time.perf_counter()
  read = layer_source.of_folder(plan, model)
  result = layerwise_calibration.calibrate(
    layer_source.LayerSource(model, read),
    TracedText({NAME: reader}, {NAME: reader.num_rows}),
  )
  seconds = time.perf_counter() - begin
  own = trees.num_bytes(model.shapes['moe']) / plan.config.num_moe
  whole = trees.num_bytes(model.shapes)
  print(
    f'{plan.config.num_layers} layers, {whole / 2**30:.2f} GiB of weights in '
    f'float32, {own / 2**30:.2f} GiB in a layer with experts; '
    f'{result[NAME].tokens:,} tokens in {seconds:.0f} s\n'
    f'largest resident memory: {_peak(own)}'
  )
  if keep is not None:
    begin = time.perf_counter()
    full = FullModel(
      plan.config, lambda path: FolderLeaf(read, path), model.shapes
    )
    smaller = _prune(
      full, result, keep, folder.with_name(f'{folder.name}_{keep}')
    )
    print(
      f'{smaller.moe.num_experts} of {plan.config.moe.num_experts} experts '
      f'written in {time.perf_counter() - begin:.0f} s\n'
      f'largest resident memory: {_peak(own)}'
    )


def _peak(layer_bytes: float) -> str:
  """The largest resident memory, in GiB and in layers."""
  peak = timing.peak_mb() * 2**20
  return f'{peak / 2**30:.2f} GiB, {peak / layer_bytes:.2f} layers'


def _prune(
  full: FullModel,
  statistics: Mapping[str, ExpertStatistics],
  keep: int,
  folder: pathlib.Path,
) -> ModelConfig:
  """Writes the model with the experts that EASY-EP keeps; gives its config."""
  method = METHODS['easy_ep']
  needs = full.needs(method, keep)
  selection = methods.select(method, keep, statistics, full.layers, needs=needs)
  smaller, _ = full.smaller(method, selection)
  save.write(
    save.plan(smaller.config, smaller.shapes),
    lambda path: SmallerLeaf(smaller, path, full.get(path)),
    folder,
    dtype='bfloat16',
  )
  return smaller.config


@dataclasses.dataclass(frozen=True)
class FolderLeaf:
  """A weight of a Hugging Face folder, read where it is indexed.

  Attributes:
    read: reads a weight or one layer of it.
    path: of the weight.
  """

  read: layer_source.Read
  path: str

  def __getitem__(self, index: Any) -> np.ndarray:
    first, *rest = index if isinstance(index, tuple) else (index,)
    if isinstance(first, int | np.integer):
      return self.read(self.path, int(first))[tuple(rest)]
    return self.read(self.path, None)[index]


@dataclasses.dataclass(frozen=True)
class Drawn:
  """A weight of random numbers, which are drawn when it is indexed.

  Attributes:
    path: of the weight, which seeds the numbers.
    shape: of the weight.
  """

  path: str
  shape: tuple[int, ...]

  def __getitem__(self, index: Any) -> np.ndarray:
    block = np.broadcast_to(np.float32(0), self.shape)[index]
    seed = hashlib.sha256(repr((self.path, index)).encode()).digest()
    stream = np.random.default_rng(int.from_bytes(seed[:8], 'little'))
    # A few numbers over and over: drawing them all would take longer than all
    # that is measured.
    few = stream.normal(0, 0.02, 65_521).astype(np.float32)
    scale = 1 if 'scale' in self.path else 0
    return scale + np.resize(few, block.shape)


if __name__ == '__main__':
  timing.main(main)
