"""FLOPs of reading images, worked by hand."""

import dataclasses

import jax
import pytest
from helpers import seeing

from moejax.config import Run
from moejax.data.config import DataConfig
from moejax.data.images import Images
from moejax.plan import compile as compiling
from moejax.plan import count, plan, sight_count, topology
from moejax.train import lora, parts
from moejax.train.config import TrainConfig
from moejax.train.optimizer import OptimizerConfig
from moejax.vision import projector

# Patches of 2 x 2 pixels and 3 channels to width 8: 96 numbers. A layer has
# four matrices of 8 x 8, and 8 x 12 and 12 x 8. The projector has 8 x 16 and
# 16 x 16. One of two layers is read, by images of 4 patches.
EMBEDDING, LAYER, PROJECTOR = 2 * 4 * 96, 4 * 64 + 2 * 96, 8 * 16 + 16 * 16
ENCODER = EMBEDDING + 2 * 4 * LAYER + 4 * 4**2 * 8
PROJECTED = 2 * 4 * PROJECTOR
FEATURES = {'features': 'features.safetensors'}
FROZEN = OptimizerConfig(parts=(parts.Part('encoder', 'vision/encoder', 0.0),))


def run_of(images=None, vision=seeing.SIGHT, **changes):
  """A row of 16 tokens has room for four images."""
  keys = {'folder': 'photos', 'tokens': 4, **(images or {})}
  prepare = Images().prepare
  prepare = dataclasses.replace(prepare, size=(4, 4))
  data = DataConfig(images=Images(prepare=prepare, **keys), sequence_length=16)
  model = dataclasses.replace(seeing.model().config, vision=vision)
  model = dataclasses.replace(model, max_length=16)
  return Run(model=model, data=data, **changes)


def test_a_forward_pass_of_an_image():
  assert sight_count.forward(run_of().model, 4) == (ENCODER, PROJECTED)


def test_layers_that_are_not_read_and_a_class_token():
  encoder = dataclasses.replace(
    seeing.SIGHT.encoder, class_token=True, pooling='class'
  )
  vision = dataclasses.replace(
    seeing.SIGHT, encoder=encoder, layers=(0, -1), projector=projector.Linear()
  )
  found = sight_count.forward(run_of(vision=vision).model, 4)
  # Both layers, over five tokens; features of width 16 to width 16.
  layers = 2 * (2 * 5 * LAYER + 4 * 5**2 * 8)
  assert found == (EMBEDDING + layers, 2 * 4 * 16 * 16)


@pytest.mark.parametrize(
  ('changes', 'passes'),
  [
    ({}, 3),
    ({'opt': FROZEN}, 1),
    ({'train': TrainConfig(lora=lora.Lora(rank=2))}, 1),
    ({'images': FEATURES}, 0),
  ],
)
def test_the_encoder_counts_three_passes_or_one_or_none(changes, passes):
  """Trained; in a frozen part; beside adapters; computed before."""
  run = run_of(**changes)
  flops = sight_count.of_run(run).flops(run.model)
  assert flops == 4 * (passes * ENCODER + 3 * PROJECTED)


def test_a_run_without_images_has_none():
  run = run_of({'folder': ''})
  assert sight_count.of_run(run).flops(run.model) == 0


def test_the_flops_of_the_whole_training():
  run = run_of(train=TrainConfig(steps=3, batch_size=5))
  images = sight_count.of_run(run).flops(run.model)
  row = count.count(run.model).flops(16) + images
  assert images > 0
  assert sight_count.training_flops(run) == pytest.approx(3 * 5 * row)


@pytest.mark.parametrize('images', [{}, FEATURES])
def test_a_plan_compiles_the_images_and_counts_them(images, monkeypatch):
  run = run_of(images, train=TrainConfig(batch_size=2, steps=2))
  where = topology.find('cpu:1', 1)
  mesh, _, batch, lowered = compiling.lower(run, where)
  seen = batch.images
  shapes = [x.shape for x in jax.tree.leaves(seen)]
  one = (2, 4, 4, 8) if images else (2, 4, 4, 4, 3)
  assert shapes == [one, (2,), (2, 16)]
  planned = plan.Plan(
    run, where, count.count(run.model), {}, None, None, {}, None, {}
  )
  own = 4 * (3 * PROJECTED + (0 if images else 3 * ENCODER))
  text = count.count(run.model).flops(16)
  assert planned.model_flops == 2 * (text + own)
  assert 'stablehlo' in lowered.as_text()
