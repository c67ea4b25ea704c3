"""Plans how a folder is read as one model, whether it reads images or not.

  plan = whole.plan(folder.open_folder('llava-1.5-7b-hf'))
  model = build.build(plan.config, mesh)
  weights = load.weights(plan, model)

The folder of a LLaVA becomes a decoder with a front end (`model.vision`): the
tensors of its encoder and of its projector get paths below `vision/`.
"""

import dataclasses
from typing import Any

from etils import epath

from moejax.convert import llava, load, processors, rules
from moejax.convert.folder import Folder
from moejax.core import errors
from moejax.data.chat.messages import IMAGE
from moejax.data.images.config import Images, Prepare
from moejax.data.vocab import Ids, Vocab
from moejax.vision.front_end import Encoder
from moejax.vision.preprocessing import Preprocessing
from moejax.vision.projector import MLP

ENCODER, PROJECTOR = 'vision/encoder/', 'vision/projector/'


def plan(folder: Folder) -> load.ImportPlan:
  """Checks config, names, shapes and types, without reading a tensor.

  Raises:
    InputError: as of `load.plan` and `llava.plan`; or `model.vision` has no
      place for the front end of a LLaVA.
  """
  if not llava.is_llava(folder.config):
    return load.plan(folder)
  return of_llava(llava.plan(folder))


def of_llava(parts: llava.LlavaPlan) -> load.ImportPlan:
  """The three parts of a LLaVA as one model; errors as of `plan`."""
  encoder, decoder = parts.encoder, parts.decoder
  if parts.left_out != encoder.config.class_token:
    key = 'vision_feature_select_strategy'
    strategy = parts.folder.config.get(key, 'default')
    what = 'keeps the class token' if parts.left_out == 0 else 'leaves out'
    what += '' if parts.left_out == 0 else ' a patch'
    raise errors.InputError(
      f'{parts.folder.path}: {key}={strategy} of config.json {what}, and '
      'model.vision reads the patches alone, all of them; moejax llava '
      'answers with such a model'
    )
  vision = Encoder(
    encoder.config, parts.layers, MLP(activation=parts.activation)
  )
  config = dataclasses.replace(decoder.config, vision=vision)
  config.check()
  front = [_below(ENCODER, tensor) for tensor in encoder.tensors]
  front += scaled(parts.projector, config.scales.embedding)
  tensors = {**parts.folder.tensors, **decoder.folder.tensors}
  return dataclasses.replace(
    decoder,
    folder=dataclasses.replace(parts.folder, tensors=tensors),
    config=config,
    tensors=[*decoder.tensors, *front],
  )


def images_of(plan: load.ImportPlan, vocab: Vocab) -> Images:
  """How images are prepared for the model of a folder.

  Args:
    plan: plan of the folder; of a language model alone the result says nothing.
    vocab: the tokenizer of the folder.

  Raises:
    InputError: no file of the folder says it, the images would not have one
      size, or the tokenizer is that of another model.
  """
  vision, folder = plan.config.vision, plan.folder
  if not isinstance(vision, Encoder):
    return Images()
  check_token(folder.path, vocab, llava.image_token(folder))
  steps = processors.read(folder.path)
  return of_steps(steps, vision, f'the image processor of {folder.path}')


def of_steps(
  steps: Preprocessing, vision: Encoder, where: str, like: Images | None = None
) -> Images:
  """The config of images that are prepared in these steps.

  Args:
    steps: of an image processor.
    vision: the front end that reads the images.
    where: what says the steps, for errors.
    like: a config with the other keys.

  Raises:
    InputError: the images would not have one size.
  """
  values: dict[str, Any] = dataclasses.asdict(steps)
  made = dataclasses.replace(like or Images(), prepare=Prepare(**values))
  if len(made.size) != 2:
    raise errors.InputError(
      f'{where} keeps the ratio of each image '
      f'(size={steps.size}), but the images of a batch have one size'
    )
  side = vision.encoder.patch_size
  tokens = (made.size[0] // side) * (made.size[1] // side)
  if not tokens:
    raise errors.InputError(
      f'{where} makes images of {made.size[0]} x '
      f'{made.size[1]} pixels, less than a patch of {side}'
    )
  return dataclasses.replace(made, tokens=tokens)


def check_token(place: epath.PathLike, vocab: Vocab, image_token: int) -> None:
  """Checks that the tokenizer of a LLaVA is that of its language model.

  Args:
    place: the folder.
    vocab: its tokenizer; one of ids alone has no text to check.
    image_token: id of image tokens, by config.json.

  Raises:
    InputError: the tokenizer does not read `<image>` as the image token.
  """
  if isinstance(vocab, Ids):
    return
  found = vocab.encode_prompt(IMAGE)
  if found != [image_token]:
    raise errors.InputError(
      f'the tokenizer of {errors.shown(place)} reads {IMAGE} as the ids '
      f'{found}, but image_token_index of config.json is {image_token}: it is '
      'the tokenizer of another model'
    )


def _below(front: str, tensor: rules.Tensor) -> rules.Tensor:
  return dataclasses.replace(tensor, path=front + tensor.path)


def scaled(tensors: list[rules.Tensor], scale: float) -> list[rules.Tensor]:
  """The tensors of a projector as weights of `model.vision`.

  That inserts features as they are. Where the decoder of a LLaVA scales
  features as embeddings, the weights that they come from have the factor.

  Args:
    tensors: of the projector alone.
    scale: by which the decoder multiplies embeddings.
  """
  return [_scaled(_below(PROJECTOR, tensor), scale) for tensor in tensors]


def _scaled(tensor: rules.Tensor, scale: float) -> rules.Tensor:
  if scale == 1 or not tensor.rule.name.startswith('linear_2.'):
    return tensor
  rule = dataclasses.replace(tensor.rule, factor=1 / scale)
  return dataclasses.replace(tensor, rule=rule)
