"""Measures how fast images are loaded, beside a model that trains on them.

  python -m benchmarks.images
  python -m benchmarks.images --images=64 --rounds=9

Made-up JPEGs of 320 x 240 pixels are decoded and resized by all cores, as a run
does once; they are read from the file of prepared images and normalised, as a
run does in every step; and a tiny vision transformer with a tiny decoder
computes its gradients from them, without an optimiser. All three run in turn.
Printed are images per second, and the ratio of reading to training.
"""

import concurrent.futures
import os
import pathlib
import statistics
import tempfile
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import timing
from benchmarks.timing import Part
from moejax.core import command
from moejax.model import build
from moejax.model.config import ModelConfig
from moejax.parallel import mesh as meshes
from moejax.vision import images as reading
from moejax.vision import preprocessing
from moejax.vision.config import VisionConfig
from moejax.vision.front_end import Encoder
from moejax.vision.inputs import RowImages
from moejax.vision.pillow import modules

SIDE, PATCH, ROW = 64, 8, 128  # pixels; tokens of a row, which has one image
STEPS = preprocessing.Preprocessing(size=(SIDE, SIDE))
MODEL = ModelConfig(
  vocab_size=1024,
  max_length=ROW,
  num_layers=2,
  first_dense=2,
  width=128,
  num_heads=4,
  dense_width=256,
  vision=Encoder(
    VisionConfig(
      image_size=SIDE,
      patch_size=PATCH,
      width=96,
      num_layers=4,
      num_heads=4,
      hidden_width=384,
      pooling='none',
    )
  ),
)


def main(argv: Sequence[str]) -> None:
  """Reads the flags and measures."""
  flags = command.parser(__doc__)
  one_or_more = command.number(int, 1)
  flags.add_argument(
    '--images', type=one_or_more, default=32, help='in each round'
  )
  flags.add_argument('--rounds', type=one_or_more, default=7, help='of all')
  args = command.parse_alone(flags, argv)
  with tempfile.TemporaryDirectory() as folder:
    sides = _sides(pathlib.Path(folder), args.images)
    times = timing.alternate(sides, args.rounds)
  rates = [args.images / statistics.median(seconds) for seconds in times]
  for side, rate in zip(sides, rates, strict=True):
    print(f'{side.name:22} {rate:10,.0f} images/s')
  _, decoded = timing.ratios(times[2], times[0])
  _, read = timing.ratios(times[2], times[1])
  print(
    f'decode and prepare / train: {decoded:.1f} of the images/s; '
    f'read / train: {read:.1f} ({args.images} images of {SIDE} x {SIDE} '
    f'pixels, {args.rounds} rounds)'
  )


def _sides(folder: pathlib.Path, count: int) -> list[Part]:
  """Decoding, reading and training of the same images."""
  names = [f'{n}.jpg' for n in range(count)]
  rng, (image_module, _) = np.random.default_rng(0), modules()
  for name in names:
    # Smooth, as photographs are: noise would not be compressed.
    small = rng.integers(0, 256, (6, 8, 3)).astype(np.uint8)
    image = image_module.fromarray(small).resize((320, 240))
    image.save(folder / name, quality=90)
  threads = concurrent.futures.ThreadPoolExecutor(os.cpu_count())

  def one(name: str) -> np.ndarray:
    image_HWC = reading.read(folder, name, reading.ReadConfig())
    return preprocessing.shaped(image_HWC, STEPS)

  def decode() -> np.ndarray:
    return np.stack([*threads.map(one, names)])

  decode().tofile(folder / 'images.bin')
  shape = (count, SIDE, SIDE, 3)
  array_N: Any = np.memmap(folder / 'images.bin', np.uint8, 'r', shape=shape)

  def read() -> np.ndarray:
    return preprocessing.normalised(np.asarray(array_N), STEPS)

  train, weights = _gradient(count)
  return [
    Part('decode and prepare', decode, ()),
    Part('read', read, ()),
    Part('train', train, (weights, read()[:, None])),
  ]


def _gradient(count: int) -> tuple[Any, build.Weights]:
  """The gradients of a model from one row for each image, and its weights."""
  mesh = meshes.make(meshes.MeshConfig(data=1), jax.devices()[:1])
  model = build.build(MODEL, mesh)
  patches = (SIDE // PATCH) ** 2
  one_BL = jnp.ones((count, ROW), jnp.int32)
  position_BL = jnp.broadcast_to(jnp.arange(ROW), one_BL.shape)

  def loss(weights: build.Weights, image_BIHWC: jax.Array) -> jax.Array:
    num_B = jnp.ones(count, jnp.int32)
    images = RowImages(image_BIHWC, None, num_B, position_BL < patches)
    decoder = model.bind(weights)
    out = decoder(one_BL, one_BL, position_BL, images=images)
    return jnp.mean(jax.nn.logsumexp(decoder.logits(out.x_BLD), -1))

  return jax.jit(jax.grad(loss)), model.init(jax.random.key(0))


if __name__ == '__main__':
  timing.main(main)
