"""A step whose layers are a pipeline equals that of one device."""

import functools

import jax
import numpy as np
import pytest
from helpers import objectives, tiny

from moejax.config import Run, on_mesh
from moejax.core import errors, trees
from moejax.model.attention.heads import Latent
from moejax.model.pipeline import Pipeline
from moejax.moe.balance import bias, load
from moejax.moe.expert_parallel.all_to_all import AllToAll
from moejax.parallel import mesh as meshes
from moejax.train import distillation, lora, optimizer, schedule, step
from moejax.train import state as states
from moejax.train.checkpoint import Checkpointer
from moejax.train.config import TrainConfig

ROWS = ([16], [5, 4], [3, 1, 6], [2, 14], [], [7, 2], [11], [4, 4])
BATCH = tiny.batch(ROWS, row_length=16)
KEY = jax.random.key(0)
# Balance losses so large that they matter as much as the text; one of them is
# of single rows. The bias is moved by the counts of the batch.
MOE = {
  'balance': (
    load.ExpertLevel(2.0),
    load.SequenceLevel(3.0),
    bias.LossFree(0.1),
  ),
  # Buffers with room for all rows.
  'expert_parallel': AllToAll(8.0),
}
# A dense layer outside, and four layers with experts, two of them shared.
SMALL = {'num_layers': 5, 'first_dense': 1}
# Groups of two layers; layers differ in their windows.
GROUPS = {
  'num_layers': 8,
  'first_dense': 0,
  'moe_every': 2,
  'windows': (0, 5, 7),
  'sinks': True,
}
TWICE = Pipeline(repeats=2, microbatches=2)


@functools.cache
def model_of(sizes, pipeline, changes):
  config = tiny.model_config(moe=MOE, **dict(changes), pipeline=pipeline)
  devices = int(np.prod([size for _, size in sizes]))
  return tiny.model(config, tiny.mesh(devices, **dict(sizes)))


def on(sizes, changes=SMALL, pipeline=TWICE):
  frozen = (tuple(sorted(tree.items())) for tree in (sizes, changes))
  of_sizes, of_changes = frozen
  return model_of(of_sizes, pipeline, of_changes)


def found(model, gradients=True):
  """Loss and what is reported, with the gradients or without."""
  return objectives.found(model, BATCH, KEY, gradients)


@functools.cache
def on_one(changes, gradients):
  return found(on({'data': 1}, dict(changes)), gradients)


def check(sizes, changes, pipeline, gradients=True):
  want = on_one(tuple(sorted(changes.items())), gradients)
  got = found(on({'data': 1, **sizes}, changes, pipeline), gradients)
  tiny.assert_close(got, want, 1e-4, 1e-5)


def test_a_loss_of_a_pipeline_equals_that_of_one_device():
  changes = {'num_layers': 2, 'first_dense': 0}
  check({'stage': 2}, changes, Pipeline(), gradients=False)


@pytest.mark.soak
@pytest.mark.parametrize(
  ('sizes', 'pipeline'),
  [
    ({'stage': 2}, Pipeline()),
    ({'stage': 4}, Pipeline()),
    ({'stage': 2, 'data': 2}, Pipeline(2, 4)),
    ({'stage': 2, 'expert': 4}, Pipeline(1, 2)),
    ({'stage': 2, 'expert': 2}, TWICE),
    ({'stage': 2, 'fsdp': 4}, TWICE),
    ({'stage': 2, 'model': 2}, TWICE),
    ({'stage': 2, 'fsdp': 2, 'expert': 2}, TWICE),
    ({'stage': 2, 'fsdp': 2, 'model': 2}, Pipeline(1, 4)),
  ],
  ids=str,
)
def test_a_pipeline_on_every_mesh(sizes, pipeline):
  check(sizes, SMALL, pipeline)


@pytest.mark.soak
@pytest.mark.parametrize('remat', ['none', 'matmuls', 'full'])
def test_groups_of_layers_that_differ(remat):
  check({'stage': 2, 'expert': 2}, GROUPS | {'remat': remat}, TWICE)


@pytest.mark.soak
def test_latent_heads_and_chunks_of_tokens():
  changes = {
    'heads': Latent(8, 6, 4, 3),
    'num_kv_heads': 4,
    'remat': 'full',
    'token_chunks': 2,
  }
  check({'stage': 2, 'fsdp': 2}, SMALL | changes, TWICE)


@pytest.mark.soak
def test_dense_layers_alone():
  moe = {'balance': (), 'num_experts': 0}
  changes = {'num_layers': 4, 'first_dense': 0, 'pipeline': TWICE}
  config = tiny.model_config(moe=moe, **changes)
  got = found(tiny.model(config, tiny.mesh(4, data=1, stage=2, fsdp=2)))
  tiny.assert_close(got, found(tiny.model(config)), 1e-4, 1e-5)


OPT = optimizer.OptimizerConfig(
  peak_lr=0.02, eps=1e-2, schedule=schedule.ConstantSchedule(warmup=1)
)


def step_of(model):
  """A step with two micro-batches, each of which passes the pipeline."""
  transform = optimizer.make(OPT, 100, model.decays)
  train = TrainConfig(steps=100, micro_batches=2)
  return transform, step.make(model, transform, OPT, train, seed=0)


@pytest.mark.soak
def test_a_run_goes_on_with_another_number_of_stages(tmp_path):
  """Steps on one device, two stages and one device again, by checkpoints."""
  one, two = on({'data': 1}), on({'data': 1, 'stage': 2, 'expert': 2})
  steps = {model: step_of(model) for model in (one, two)}

  def after(models, folder):
    state = states.begin(one, steps[one][0], tiny.weights(one))
    with Checkpointer(folder) as checkpointer:
      for number, model in enumerate(models):
        transform, take = steps[model]
        checkpointer.save(number, state, {})
        target = states.abstract(model, transform)
        state, _ = checkpointer.restore_latest(target)
        state, _ = take(state, BATCH)
    return jax.device_get(state)

  got = after((one, two, one), tmp_path / 'stages')
  want = after((one, one, one), tmp_path / 'one')
  tiny.assert_close(got, want, 1e-3, 1e-5)


def test_stages_hold_their_layers_and_the_stored_order_is_that_of_one_device():
  one, two = on({'data': 1}), on({'data': 1, 'stage': 2, 'expert': 2})
  sizes = [
    {path: x.shape for path, x in trees.leaves(model.shapes).items()}
    for model in (one, two)
  ]
  assert sizes[0] == sizes[1]
  by_path = {p: s.spec for p, s in trees.leaves(two.shardings).items()}
  first = {path: tuple(spec)[:1] for path, spec in by_path.items()}
  for path, axis in first.items():
    in_pipeline = path.startswith('moe/')
    assert (axis == (meshes.STAGE,)) == in_pipeline, path


@pytest.mark.parametrize(
  ('sizes', 'changes', 'pipeline', 'message'),
  [
    (
      {'stage': 4},
      {'num_layers': 7},
      TWICE,
      r'mesh.stage=4 x model.pipeline.repeats=2 do not divide the 6 layers of '
      'the pipeline; their product must be 6',
    ),
    (
      {'stage': 4},
      {},
      Pipeline(1, 6),
      'model.pipeline.microbatches=6 is no multiple of mesh.stage=4; use 4 or '
      '8',
    ),
    ({'stage': 4}, {}, Pipeline(1, 2), 'no multiple of mesh.stage=4; use 4'),
    ({'stage': 2, 'context': 2}, {}, TWICE, 'mesh.context=1'),
    ({'stage': 2}, {'mtp_layers': 1}, TWICE, 'model.mtp_layers=0'),
    (
      {'stage': 2},
      {'moe_every': 2},
      Pipeline(),
      'model.first_dense=0 or model.moe_every=1; or set mesh.stage=1',
    ),
  ],
)
def test_what_cannot_be_a_pipeline(sizes, changes, pipeline, message):
  with pytest.raises(errors.InputError, match=message):
    on({'data': 1, **sizes}, SMALL | changes, pipeline)


@pytest.mark.parametrize(
  'changes',
  [
    {'lora': lora.Lora(rank=4)},
    {'distillation': distillation.Distillation(teacher='runs/large')},
  ],
  ids=str,
)
def test_what_is_not_trained_in_a_pipeline(changes):
  train = TrainConfig(batch_size=8, **changes)
  mesh = tiny.mesh(2, data=1, stage=2)
  (name,) = changes
  with pytest.raises(errors.InputError, match=f'mesh.stage=2: train.{name}'):
    on_mesh.check(Run(train=train), mesh)
