"""Tiny models that read images, and batches with images."""

import dataclasses

import numpy as np

from helpers import tiny
from moejax.vision import front_end
from moejax.vision.config import VisionConfig
from moejax.vision.inputs import RowImages

PATCHES = 4  # image tokens of an image
SIGHT = front_end.Encoder(
  encoder=VisionConfig(
    image_size=4,
    patch_size=2,
    width=8,
    num_layers=2,
    num_heads=2,
    hidden_width=12,
    pooling='none',
  ),
  layers=(-2,),
)
# Two documents and padding, an image in the first and one in the second; a row
# of text alone; and a row with one image.
LENGTHS = ([7, 4], [12], [5], [3, 2])
AT = ({1: 4, 7: 4}, {}, {0: 4}, {})  # where each run of image tokens begins


def model(mesh=None, vision=SIGHT, **changes):
  config = tiny.model_config(
    num_layers=2, first_dense=0, vision=vision, **changes
  )
  return tiny.model(config, mesh)


def batch(seed=0):
  """A batch of four rows, at most two images in each."""
  text = tiny.batch(LENGTHS)
  is_image_BL = np.zeros(text.token_BL.shape, bool)
  for row, runs in enumerate(AT):
    for start, count in runs.items():
      is_image_BL[row, start : start + count] = True
  num_B = np.array([len(runs) for runs in AT], np.int32)
  rng = np.random.default_rng(seed)
  image_BIHWC = rng.normal(size=(len(AT), 2, 4, 4, 3)).astype(np.float32)
  image_BIHWC[np.arange(2) >= num_B[:, None]] = 0
  images = RowImages(image_BIHWC, None, num_B, is_image_BL)
  return dataclasses.replace(text, images=images)
