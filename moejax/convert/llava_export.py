"""Plans how a model that reads images is written as a LLaVA.

  plan = llava_export.plan(model, shapes, images, vocab)
  save.write(plan, get, path)
  llava_export.write_processors(path, model, images)

The folder has the names of files on the hub (convert/llava.py), and is loaded
by `LlavaForConditionalGeneration` and `LlavaProcessor` of transformers.
"""

import dataclasses
import pathlib
from typing import Any

from moejax.convert import encoders, llava, processors, rules, save, whole
from moejax.convert.encoder_families import ACTIVATIONS
from moejax.core import errors, files
from moejax.data.images.config import Images
from moejax.data.vocab import Vocab
from moejax.model.config import ModelConfig
from moejax.vision.front_end import Encoder, TextOnly
from moejax.vision.projector import MLP

ARCHITECTURE = 'LlavaForConditionalGeneration'
_CANNOT = 'a llava of transformers cannot hold this model: it '


def plan(
  model: ModelConfig,
  shapes: Any,
  images: Images,
  vocab: Vocab,
  names: tuple[str, str] = ('', ''),
) -> save.ExportPlan:
  """The config and the tensors of a folder.

  Args:
    model: config of a model that reads images.
    shapes: tree of the shapes of its weights.
    images: `data.images` of the run.
    vocab: the tokenizer of the run.
    names: family of the language model, and the one that its weights came
      from, as `name` and `was` of `save.plan`.

  Raises:
    InputError: a LLaVA, or a family of its parts, cannot hold the model.
  """
  vision = model.vision
  assert isinstance(vision, Encoder)
  token = _image_token(images, vocab)
  _check(model, vision, images)
  alone = dataclasses.replace(model, vision=TextOnly())
  own = {name: tree for name, tree in shapes.items() if name != 'vision'}
  decoder = save.plan(alone, own, *names)
  front = shapes['vision']
  encoder = encoders.export(vision.encoder, front['encoder'], 'hub')
  named = {**ACTIVATIONS}
  act = vision.projector.activation  # type: ignore[attr-defined] # see _check
  config = {
    'architectures': [ARCHITECTURE],
    'model_type': llava.KIND,
    'text_config': decoder.config,
    'vision_config': encoder.config,
    'image_token_index': token,
    'image_seq_length': images.tokens,
    'multimodal_projector_bias': True,
    'projector_hidden_act': next(n for n, x in named.items() if x == act),
    'tie_word_embeddings': model.tie_embeddings,
    'vision_feature_layer': vision.layers[0]
    if len(vision.layers) == 1
    else list(vision.layers),
    'vision_feature_select_strategy': _strategy(vision),
  }
  tensors = [*map(_of_decoder, decoder.tensors)]
  tensors += [
    dataclasses.replace(
      t, name=f'vision_tower.{t.name}', path=whole.ENCODER + t.path
    )
    for t in encoder.tensors
  ]
  tensors += whole.scaled(
    llava.projector_tensors(front['projector'], 'multi_modal_projector.'),
    model.scales.embedding,
  )
  family = dataclasses.replace(
    decoder.family, model_type=llava.KIND, architecture=ARCHITECTURE
  )
  return save.ExportPlan(family, config, tensors, decoder.dropped)


def write_processors(
  path: pathlib.Path, model: ModelConfig, images: Images
) -> None:
  """Writes how images are prepared, and how `<image>` is read.

  Raises:
    InputError: processors of transformers have no such step.
  """
  vision = model.vision
  assert isinstance(vision, Encoder)
  processors.write(path, images.prepare)
  files.atomic_write_json(
    path / processors.JOINT,
    {
      'processor_class': 'LlavaProcessor',
      'image_token': images.token,
      'num_additional_image_tokens': int(vision.encoder.class_token),
      'patch_size': vision.encoder.patch_size,
      'vision_feature_select_strategy': _strategy(vision),
    },
  )


def _strategy(vision: Encoder) -> str:
  return 'default' if vision.encoder.class_token else 'full'


def _image_token(images: Images, vocab: Vocab) -> int:
  """The id of image tokens, which no text has."""
  found = vocab.encode_prompt(images.token)
  if len(found) != 1:
    raise errors.InputError(
      f'{_CANNOT}reads {images.token} (data.images.token) as '
      f'{len(found)} ids, and a LLaVA has one for images: train with a '
      'tokenizer that has such a token'
    )
  return found[0]


def _check(model: ModelConfig, vision: Encoder, images: Images) -> None:
  """Raises InputError for what the class of transformers has no key for."""
  projector, side = vision.projector, vision.encoder.image_size
  problem = ''
  if not isinstance(projector, MLP):
    problem = 'has another projector than model.vision.projector.name=mlp'
  elif projector.hidden_width not in {0, model.width}:
    problem = (
      f'has model.vision.projector.hidden_width={projector.hidden_width}, not '
      f'the {model.width} of model.width'
    )
  elif model.scales.logits != 1:
    problem = (
      f'has model.scales.logits={model.scales.logits}, and the head of a LLaVA '
      'has no factor'
    )
  elif images.size != (side, side):
    problem = (
      f'reads images of {images.size} pixels (data.images.prepare), not those '
      f'of model.vision.encoder.image_size={side}'
    )
  elif images.prepare.pad_square:
    problem = 'has data.images.prepare.pad_square=True'
  if problem:
    raise errors.InputError(_CANNOT + problem)


def _of_decoder(tensor: rules.Tensor) -> rules.Tensor:
  return dataclasses.replace(tensor, name=f'language_model.{tensor.name}')
