"""Trained: the model of a run, opened from its workdir for use."""

import argparse
import dataclasses
import functools
import math
from collections.abc import Callable, Sequence

import jax
from etils import epath

from moejax.config import Run, kept_tokenizer
from moejax.core import config_tree, errors, table, trees
from moejax.data.vocab import Ids
from moejax.model import build, rounded
from moejax.parallel import mesh as meshes
from moejax.run import restore
from moejax.train import lora

# Prefixes of the config keys that change what a trained model computes.
USED = ('model.', 'mesh.', 'data.vocab.', 'data.images.')


@dataclasses.dataclass(frozen=True)
class Trained:
  """The model of a run; its weights are read by `weights`.

  Attributes:
    workdir: folder of the run.
    run: the config, with a mesh of one device unless overridden.
    model: the network.
    hf_folder: folder of Hugging Face files that belong to the vocabulary; None
      without them.
  """

  workdir: str
  run: Run
  model: build.Model
  hf_folder: epath.Path | None

  def weights(
    self, step: str, note: Callable[[str], None]
  ) -> tuple[build.Weights, int]:
    """The weights of a checkpoint, and its step; see `restore.weights`.

    Args:
      step: which checkpoint: newest, best, or a number.
      note: is called with a line for each checkpoint that had to be skipped.
    """
    read = functools.partial(
      restore.weights, workdir=self.workdir, warn=note, step=step
    )
    if not isinstance(self.model, rounded.RoundedModel):
      return read(self.model)
    full, at = read(self.model.base)
    note(self.model.in_words)
    return self.model.round(full), at


def open_trained(
  workdir: str,
  overrides: Sequence[tuple[str, str]] = (),
  used: Sequence[str] = USED,
  weights: str = rounded.FULL,
) -> Trained:
  """Opens the workdir of a run.

  Args:
    workdir: the folder.
    overrides: config keys to change, as dotted paths and texts.
    used: prefixes of the keys that may be overridden.
    weights: how weights are held in memory, one of `rounded.NAMES`.

  Raises:
    InputError: the folder is not a workdir, a key cannot be overridden, or
      `weights` is no such name.
  """
  table.lookup('--weights', dict.fromkeys(rounded.NAMES), weights)
  run = restore.run_of(workdir)
  # A model may be used on fewer devices than it was trained on.
  run = dataclasses.replace(run, mesh=meshes.MeshConfig(data=1))
  run = config_tree.override_all(run, overrides)
  _check_overrides(overrides, used)
  run.check()
  folder = kept_tokenizer.folder(run.data.vocab, workdir, run.start)
  model = build.build(run.model, _mesh(run.mesh))
  if weights != rounded.FULL:
    forms = lora.forms_of(trees.leaves(model.shapes), lora.Lora())
    model = rounded.of(model, weights, forms)
  return Trained(workdir, run, model, folder)


def check_tokenizer(opened: Trained) -> None:
  """Raises InputError if another tokenizer was set than that of the run.

  A model that came without a tokenizer may be given one.
  """
  vocab = opened.run.data.vocab
  own = restore.run_of(opened.workdir).data.vocab
  if not isinstance(own, Ids) and own.fingerprint() != vocab.fingerprint():
    raise errors.InputError(
      f'{opened.workdir}: data.vocab is another tokenizer than that of the '
      'run, whose ids mean other tokens: leave out --config.data.vocab'
    )


def add_weights_flag(flags: argparse.ArgumentParser) -> None:
  """Adds `--weights`, which says how weights are held in memory."""
  flags.add_argument(
    '--weights',
    default=rounded.FULL,
    help=f'types of weights in memory: {", ".join(rounded.NAMES)} (default: '
    '%(default)s, as they were trained)',
  )


def _check_overrides(
  overrides: Sequence[tuple[str, str]], used: Sequence[str]
) -> None:
  """Raises InputError if a key has no effect on a trained model."""
  for key, text in overrides:
    if not f'{key}.'.startswith(tuple(used)):
      raise errors.InputError(
        f'--config.{key}={text} does not change what a trained model computes; '
        'leave it out, or set keys of '
        f'{", ".join(prefix[:-1] for prefix in used)}'
      )


def _mesh(sizes: meshes.MeshConfig) -> jax.sharding.Mesh:
  """A mesh of the first devices, as many as the config asks for."""
  devices = jax.devices()
  wanted = math.prod(meshes.axis_sizes(sizes).values())
  return meshes.make(sizes, devices[:wanted] if wanted > 0 else devices)
