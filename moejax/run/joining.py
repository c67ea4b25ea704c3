"""Makes a workdir of a model that reads images from an encoder and a decoder.

The projector between them is drawn anew: it is what a run trains first.
"""

import argparse
import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
from etils import epath

from moejax.config import Run, kept_tokenizer
from moejax.convert import encoders, load, processors, whole
from moejax.convert import folder as folders
from moejax.core import config_tree, errors, files
from moejax.data.images import vocab as image_vocabs
from moejax.model import build
from moejax.parallel import mesh as meshes
from moejax.run import importing, new_workdir, restore
from moejax.train import checkpoint
from moejax.vision import build as vision_build
from moejax.vision.front_end import Encoder, TextOnly

Say = Callable[[str], None]
# Prefixes of the config keys that may be set: the rest is that of the parts.
KEYS = (
  'model.vision.layers.',
  'model.vision.projector.',
  'data.images.token.',
  'data.images.read.',
  'data.images.prepare.',
)


@dataclasses.dataclass(frozen=True)
class Join:
  """Parts of a model; each field is a flag of `cli.convert join`.

  Attributes:
    encoder: folder of the encoder, or `owner/name` on the hub.
    decoder: workdir of a language model, or a folder of Hugging Face.
    to: path of the new workdir.
    step: which checkpoint of the decoder's workdir, see `restore.weights`.
    seed: of the projector.
  """

  encoder: str
  decoder: str
  to: str
  step: str = checkpoint.NEWEST
  seed: int = 0


@dataclasses.dataclass(frozen=True)
class _Decoder:
  """A language model whose weights are read when they are needed.

  Attributes:
    run: a config with its model and its tokenizer.
    read: reads the weights of the model onto one device.
    keep: copies tokenizer, template and settings to a new workdir, and returns
      the config with their places there.
  """

  run: Run
  read: Callable[[build.Model], build.Weights]
  keep: Callable[[epath.Path], Run]


def add_flags(flags: argparse.ArgumentParser) -> None:
  """Adds the flags of `cli.convert join`."""
  add = flags.add_argument
  add('--encoder', required=True, help='folder of a CLIP or SigLIP')
  text = 'workdir or folder of a language model'
  add('--decoder', required=True, help=text)
  restore.add_step_flag(flags)
  add('--to', required=True, help='workdir, made; has to be new')
  add('--seed', type=int, default=0, help='of the projector')


def join(
  args: Join, overrides: Sequence[tuple[str, str]], say: Say, note: Say
) -> None:
  """Makes a workdir of an encoder, a fresh projector and a decoder.

  Args:
    args: the parts.
    overrides: config keys of the front end and of its images, as dotted paths
      and texts.
    say: is called with lines on the result.
    note: is called with warnings.

  Raises:
    InputError: a part cannot be used, the parts do not fit together, or the
      new workdir is that of a run.
  """
  for key, text in overrides:
    if not f'{key}.'.startswith(KEYS):
      listed = ', '.join(prefix[:-1] for prefix in KEYS)
      raise errors.InputError(
        f'--config.{key}={text} is not of the projector or of the images: '
        f'set keys of {listed}, or leave it out'
      )
  plan = encoders.plan(folders.open_folder(args.encoder))
  steps = processors.read(plan.folder.path)
  decoder = _opened(args, note)
  run = _joined(decoder.run, plan, steps, overrides)
  target = new_workdir.make(args.to)
  with files.locked(target, note):
    weights = _weights(run, plan, decoder, args.seed)
    vocab = decoder.keep(target).data.vocab
    run = dataclasses.replace(
      run, data=dataclasses.replace(run.data, vocab=vocab)
    )
    extra = {'joined': [args.encoder, args.decoder]}
    new_workdir.save(target, weights, extra, note)
    new_workdir.finish(target, run)
  vision = plan.config
  say(
    f'{target} holds a model that reads images: the '
    f'{plan.family.model_type} of {args.encoder} with {vision.num_layers} '
    f'layers of width {vision.width}, a fresh projector, and the language '
    f'model of {args.decoder}. An image takes {run.data.images.tokens} of its '
    f'{run.model.max_length} tokens.'
  )


def _opened(args: Join, note: Say) -> _Decoder:
  """The decoder of a workdir or of a folder.

  Raises:
    InputError: it cannot be used, or reads images already.
  """
  if (epath.Path(args.decoder) / restore.CONFIG).exists() and (
    epath.Path(args.decoder) / restore.CHECKPOINTS
  ).exists():
    found = _of_workdir(args, note)
  else:
    found = _of_folder(args)
  if found.run.model.vision != TextOnly():
    raise errors.InputError(
      f'--decoder={args.decoder} reads images already, by an encoder of its '
      'own: name a language model'
    )
  return found


def _of_workdir(args: Join, note: Say) -> _Decoder:
  run = restore.run_of(args.decoder)

  def keep(target: epath.Path) -> Run:
    chat = run.data.chat_used()
    kept_tokenizer.keep(run.data.vocab, target, args.decoder, note, chat)
    return run

  read = lambda model: restore.weights(
    model, args.decoder, note, step=args.step
  )[0]
  return _Decoder(run, read, keep)


def _of_folder(args: Join) -> _Decoder:
  if args.step != checkpoint.NEWEST:
    raise errors.InputError(
      f'--step={args.step} is for a workdir, and --decoder={args.decoder} is '
      'none: leave it out'
    )
  plan = whole.plan(folders.open_folder(args.decoder))
  return _Decoder(
    importing.config_of(plan),
    lambda model: load.weights(plan, model),
    lambda target: importing.run_of(plan, target),
  )


def _joined(
  run: Run,
  plan: encoders.EncoderPlan,
  steps: Any,
  overrides: Sequence[tuple[str, str]],
) -> Run:
  """The config of the joined model; raises InputError if it does not fit."""
  # Nothing reads the vector of a whole image.
  pooling = (
    'none' if plan.config.pooling == 'attention' else plan.config.pooling
  )
  vision = Encoder(dataclasses.replace(plan.config, pooling=pooling))
  where = f'the image processor of {plan.folder.path}'
  images = whole.of_steps(steps, vision, where)
  model = dataclasses.replace(run.model, vision=vision)
  data = dataclasses.replace(run.data, images=images)
  run = dataclasses.replace(run, model=model, data=data)
  run = config_tree.override_all(run, overrides)
  run.model.check()
  images = run.data.images
  images = whole.of_steps(
    images.prepare, vision, 'data.images.prepare', like=images
  )
  image_vocabs.token_id(run.data.vocab, images.token)
  if images.tokens >= run.model.max_length:
    raise errors.InputError(
      f'an image would take {images.tokens} tokens, and the language model '
      f'reads {run.model.max_length}: take an encoder of fewer patches, or '
      'smaller images (data.images.prepare.size)'
    )
  data = dataclasses.replace(run.data, images=images)
  return dataclasses.replace(run, data=data)


def _weights(
  run: Run, plan: encoders.EncoderPlan, decoder: _Decoder, seed: int
) -> build.Weights:
  """The weights of all three parts, on one device."""
  mesh = meshes.make(meshes.MeshConfig(data=1), jax.devices()[:1])
  vision = run.model.vision
  assert isinstance(vision, Encoder)
  encoder = vision_build.encoder(vision.encoder, mesh)
  projector = vision_build.structure(
    lambda key: vision.projector.make(
      vision.feature_width, run.model.width, mesh, key
    ),
    mesh,
  )
  front = {
    'encoder': load.weights(plan, encoder),
    'projector': projector.init(jax.random.key(seed)),
  }
  text = build.build(decoder.run.model, mesh)
  return {**decoder.read(text), 'vision': front}
