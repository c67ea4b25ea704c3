"""Checks of a run that reads features of images in place of the images."""

from moejax.config import Run
from moejax.core import errors
from moejax.data.build import Data
from moejax.data.images.rows import ImageRows
from moejax.model.build import Model
from moejax.train import parts
from moejax.vision.front_end import Encoder


def check(run: Run, learner: Model, data: Data) -> None:
  """Checks that features fit the projector, and that the encoder is frozen.

  Args:
    run: the config.
    learner: the weights that are trained: those of the model, or adapters.
    data: the text.

  Raises:
    InputError: features have another width than the projector reads; or the
      encoder would be trained, whose output is not that of the file any more.
  """
  file, vision = run.data.images.features, run.model.vision
  if not file or not isinstance(vision, Encoder):
    return
  frozen = parts.frozen(run.opt.parts, learner.decays)
  moving = [
    path
    for path in learner.decays
    if path.startswith('vision/encoder/') and path not in frozen
  ]
  if moving:
    raise errors.InputError(
      f'data.images.features={file!r} has the output of an encoder, and '
      f'{moving[0]} would be trained: freeze it with '
      'opt.parts.encoder.weights=vision/encoder and '
      'opt.parts.encoder.lr_factor=0, or leave the features out'
    )
  for domain in data.domains.values():
    if isinstance(domain.train, ImageRows):
      width = domain.train.store.array_M.shape[-1]
      if width != vision.feature_width:
        raise errors.InputError(
          f'data.images.features={file!r} has features of width {width}, and '
          f'the projector reads {vision.feature_width}: width '
          f'{vision.encoder.width} of {len(vision.layers)} layers '
          '(model.vision.encoder.width, model.vision.layers)'
        )
