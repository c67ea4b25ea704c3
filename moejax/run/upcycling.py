"""Makes a workdir of a model with experts from that of a dense model."""

import argparse
import dataclasses
from collections.abc import Callable, Sequence

import jax

from moejax import config
from moejax.config import kept_tokenizer
from moejax.convert import upcycle
from moejax.core import config_tree, errors, files
from moejax.model import build
from moejax.model.config import ModelConfig
from moejax.parallel import mesh as meshes
from moejax.run import new_workdir, restore
from moejax.vision.front_end import Encoder
from moejax.vision.projector import MLP, Experts


def add_flags(flags: argparse.ArgumentParser) -> None:
  """Adds the flags of `cli.convert upcycle`."""
  add = flags.add_argument
  add('--workdir', required=True, help='of a dense run, or imported')
  restore.add_step_flag(flags)
  add('--to', required=True, help='workdir, made; has to be new')
  off = argparse.BooleanOptionalAction
  has = "a config file's, for a model that reads images: FILE.py:NAME"
  add('--experts', default='', help=f'experts of encoder and projector: {has}')
  add('--rescale', action=off, default=True, help="rescale experts' outputs")
  add('--groups', action=off, default=True, help='equal router columns')
  add('--noise', type=float, default=0.0, help='on experts, of their std')
  add('--seed', type=int, default=0, help='of routers and noise')


def upcycle_run(
  workdir: str,
  to: str,
  overrides: Sequence[tuple[str, str]],
  recipe: upcycle.Upcycling,
  step: str,
  note: Callable[[str], None],
  experts: str = '',
) -> str:
  """Makes a workdir with experts from one of a dense model.

  Args:
    workdir: folder of the dense run.
    to: path of the new workdir.
    overrides: config keys that add experts, as dotted paths and texts.
    recipe: how the experts' weights are made from dense ones.
    step: which checkpoint, see `restore.weights`.
    note: is called with warnings.
    experts: path of a config file, whose front end's experts the new model has,
      at the sizes of the dense one; '' for those of `overrides`, which come
      after them.

  Returns:
    A line on the new workdir.

  Raises:
    InputError: the models do not fit, or the new workdir is that of a run.
  """
  run = restore.run_of(workdir)
  source = run.model
  if experts:
    vision = vision_of(source, experts)
    run = dataclasses.replace(
      run, model=dataclasses.replace(source, vision=vision)
    )
  run = config_tree.override_all(run, overrides)
  run.model.check()
  mesh = meshes.make(meshes.MeshConfig(data=1), jax.devices()[:1])
  dense = build.build(source, mesh)
  target = new_workdir.make(to)
  with files.locked(target, note):
    old, at = restore.weights(dense, workdir, note, step=step)
    new = upcycle.upcycle(source, run.model, old, recipe)
    kept_tokenizer.keep(run.data.vocab, target, workdir)
    new_workdir.save(target, new, {'upcycled': workdir}, note)
    new_workdir.finish(target, run)
  return (
    f'{target} holds step {at} of {workdir} with {_new(source, run.model)}.'
  )


def vision_of(source: ModelConfig, experts: str) -> Encoder:
  """The front end of a dense model with the experts of a config file's.

  Args:
    source: the dense model.
    experts: path of the config file, with a name behind a colon.
  """
  own, other = source.vision, config.load(experts).model.vision
  if not isinstance(own, Encoder):
    raise errors.InputError(
      f'--experts={experts} is for a model that reads images, and '
      'model.vision.name=none here: leave it out, and set '
      '--config.model.moe.num_experts, say'
    )
  if not isinstance(other, Encoder) or not other.mixtures:
    raise errors.InputError(
      f'--experts={experts}: the model of this config has no experts in '
      'model.vision'
    )
  encoder = dataclasses.replace(
    own.encoder, feed_forward=other.encoder.feed_forward
  )
  projector = own.projector
  if isinstance(other.projector, Experts) and isinstance(projector, MLP):
    projector = dataclasses.replace(
      other.projector,
      expert_width=projector.hidden_width,
      activation=projector.activation,
    )
  return dataclasses.replace(own, encoder=encoder, projector=projector)


def _new(source: ModelConfig, model: ModelConfig) -> str:
  """The experts that a model has, and the one that it was made of had not."""
  moe, listed = model.moe, []
  if moe != source.moe:
    listed.append(
      f'{moe.num_experts} experts of width {moe.expert_width} and '
      f'{moe.num_shared} shared'
    )
  for part, mixture in model.vision.mixtures.items():
    if part not in source.vision.mixtures:
      listed.append(
        f'{mixture.num_experts} experts and {mixture.num_shared} shared in the '
        f'{part}'
      )
  return ', '.join(listed)
