"""Features that were computed before need an encoder that is not trained."""

import dataclasses
import types

import pytest
from helpers import seeing

from moejax.config import Run
from moejax.core import errors
from moejax.data.config import DataConfig
from moejax.data.images import Images
from moejax.run import image_features
from moejax.train import lora, parts
from moejax.train.optimizer import OptimizerConfig

DATA = types.SimpleNamespace(domains={})


def checked(rank=0, frozen=''):
  model = seeing.model()
  images = Images(folder='photos', features='features.safetensors')
  part = parts.Part('encoder', frozen, 0.0)
  run = dataclasses.replace(
    Run(),
    model=model.config,
    data=DataConfig(images=images),
    opt=OptimizerConfig(parts=(part,) if frozen else ()),
  )
  learner = lora.learner(model, lora.Lora(rank=rank))
  image_features.check(run, learner, DATA)


@pytest.mark.parametrize('frozen', ['', 'vision/encoder/layers'])
def test_an_encoder_that_moves_is_refused(frozen):
  with pytest.raises(errors.InputError, match='would be trained: freeze it'):
    checked(frozen=frozen)


def test_an_encoder_without_adapters_or_in_a_frozen_part_is_taken():
  """Adapters are on the decoder alone, so the encoder keeps its bits."""
  checked(rank=2)
  checked(frozen='vision/encoder')
