"""Plans how whole LLaVA checkpoints of Hugging Face folders are read.

  plan = llava.plan(folder.open_folder('llava-1.5-7b-hf'))

A LLaVA (arXiv 2304.08485, 2310.03744) is an encoder, a projector and a decoder.
Encoder and decoder may be of any family that moejax reads by itself. Their
tensors have the names that they have alone, behind prefixes:

  language_model.model. language_model.lm_head. multi_modal_projector.
                       files of the hub, and those that transformers writes
  model.language_model. lm_head. model.multi_modal_projector.
                       names in the memory of transformers 5
"""

import dataclasses
from typing import Any

import jax

from moejax.convert import encoders, load, quantised, rules
from moejax.convert.encoder_families import ACTIVATIONS
from moejax.convert.folder import Folder, listed, shortly
from moejax.core import errors, table, trees
from moejax.parallel import mesh as meshes
from moejax.vision import build
from moejax.vision.projector import MLP

KIND = 'llava'
# What config.json leaves out, as in the configuration class of transformers.
_DEFAULTS: dict[str, Any] = {
  'image_token_index': 32000,
  'multimodal_projector_bias': True,
  'projector_hidden_act': 'gelu',
  'text_config': {},
  'vision_config': {
    'hidden_size': 1024,
    'image_size': 336,
    'intermediate_size': 4096,
    'num_attention_heads': 16,
    'num_hidden_layers': 24,
    'patch_size': 14,
  },
  'vision_feature_layer': -2,
  'vision_feature_select_strategy': 'default',
}
# Number of tokens of an encoder that are left out in front.
_LEFT_OUT = {'default': 1, 'full': 0}
_RULES = (
  rules.Rule('linear_1.weight', 'F D', 'w_in_DF', 'D F'),
  rules.Rule('linear_1.bias', 'F', 'b_in_F', 'F'),
  rules.Rule('linear_2.weight', 'D F', 'w_out_FD', 'F D'),
  rules.Rule('linear_2.bias', 'D', 'b_out_D', 'D'),
)


@dataclasses.dataclass(frozen=True)
class _Layout:
  """Names of tensors: prefixes, and the name of the head.

  Attributes:
    decoder: prefix that stands for `model.` of a decoder alone.
    head: name that stands for its `lm_head.weight`.
    projector: prefix of the projector.
  """

  decoder: str
  head: str
  projector: str


_LAYOUTS = (
  _Layout(
    'language_model.model.',
    'language_model.lm_head.weight',
    'multi_modal_projector.',
  ),
  _Layout(
    'model.language_model.', 'lm_head.weight', 'model.multi_modal_projector.'
  ),
)


@dataclasses.dataclass(frozen=True)
class LlavaPlan:
  """A LLaVA that fits its config, and how it is read.

  Attributes:
    folder: the folder.
    encoder: plan of the encoder.
    decoder: plan of the decoder; its folder has the names of a decoder alone.
    projector: tensors of the projector.
    activation: function between the two matrices of the projector.
    layers: layers of the encoder whose outputs are the features, see
      `VisionEncoder.features`.
    left_out: number of tokens of the encoder that are left out in front: 1 for
      the class token.
    image_token: id of the tokens that features replace.
  """

  folder: Folder
  encoder: encoders.EncoderPlan
  decoder: load.ImportPlan
  projector: list[rules.Tensor]
  activation: str
  layers: tuple[int, ...]
  left_out: int
  image_token: int

  @property
  def widths(self) -> tuple[int, int]:
    """Widths of the features and of the decoder."""
    width = self.encoder.config.width
    return len(self.layers) * width, self.decoder.config.width

  @property
  def num_features(self) -> int:
    """Number of features, and so of image tokens, of one image."""
    vision = self.encoder.config
    return vision.grid**2 + vision.class_token - self.left_out

  @property
  def num_parameters(self) -> int:
    """Number of parameters of all three parts."""
    parts = self.encoder.tensors, self.projector, self.decoder.tensors
    return sum(tensor.size for part in parts for tensor in part)


def is_llava(config: dict[str, Any]) -> bool:
  """Whether a config.json is that of a LLaVA."""
  return config.get('model_type') == KIND


def plan(folder: Folder) -> LlavaPlan:
  """Checks config, names, shapes and types, without reading a tensor.

  Raises:
    InputError: it is no LLaVA; a config key or a part is not supported; or a
      tensor is missing, superfluous, or of an unexpected shape or type.
  """
  _check_kind(folder)
  keys = _DEFAULTS | {k: v for k, v in folder.config.items() if v is not None}
  if not keys['multimodal_projector_bias']:
    raise errors.InputError(
      f'{folder.path}: multimodal_projector_bias=false of config.json is not '
      'supported; moejax has projectors with biases alone'
    )
  layout = _layout(folder)
  encoder = encoders.plan(_of_encoder(folder, keys))
  decoder = _decoder(folder, keys, layout)
  layers = _layers(folder, keys['vision_feature_layer'])
  encoder.config.check_layers(layers)
  kind = 'vision_feature_select_strategy of config.json'
  strategy = keys['vision_feature_select_strategy']
  left_out = table.lookup(kind, _LEFT_OUT, strategy)
  kind = 'projector_hidden_act of config.json'
  act = table.lookup(kind, ACTIVATIONS, keys['projector_hidden_act'])
  widths = len(layers) * encoder.config.width, decoder.config.width
  tensors = _projector(folder, layout, widths)
  _check_rest(folder, encoder, layout)
  token = image_token(folder)
  return LlavaPlan(
    folder, encoder, decoder, tensors, act, layers, left_out, token
  )


def image_token(folder: Folder) -> int:
  """The id of image tokens in a LLaVA's text.

  Raises:
    InputError: it is no id.
  """
  names = 'image_token_id', 'image_token_index'
  named = [x for name in names if (x := folder.config.get(name)) is not None]
  token = named[0] if named else _DEFAULTS['image_token_index']
  if isinstance(token, bool) or not isinstance(token, int) or token < 0:
    raise errors.InputError(
      f'{folder.path}: image_token_index={token!r} of config.json is no id'
    )
  return token


def projector(
  activation: str, widths: tuple[int, int], mesh: jax.sharding.Mesh
) -> build.Structure[Any]:
  """The structure of a projector.

  Args:
    activation: function between its matrices.
    widths: of features, and of the decoder.
    mesh: the devices.
  """
  kind = MLP(activation=activation)
  return build.structure(lambda key: kind.make(*widths, mesh, key), mesh)


def _check_kind(folder: Folder) -> None:
  if not is_llava(folder.config):
    raise errors.InputError(
      f'{folder.path} is a {folder.config.get("model_type")!r}: of models of '
      f'images and text moejax reads {KIND!r} alone, that is '
      'LlavaForConditionalGeneration of transformers'
    )
  if 'mm_vision_tower' in folder.config:
    raise errors.InputError(
      f"{folder.path} is in the format of LLaVA's own code, whose encoder is "
      'elsewhere: take the release for transformers, such as '
      'llava-hf/llava-1.5-7b-hf'
    )
  for key in ('text_config', 'vision_config'):
    if not isinstance(folder.config.get(key), dict | None):
      raise errors.InputError(
        f'{folder.path}: {key} of config.json is {folder.config[key]!r}; it '
        'must be an object'
      )


def _layout(folder: Folder) -> _Layout:
  """The layout whose projector the folder has."""
  for layout in _LAYOUTS:
    if any(name.startswith(layout.projector) for name in folder.tensors):
      return layout
  names = listed([layout.projector + '*' for layout in _LAYOUTS])
  raise errors.InputError(
    f'{folder.path} has no projector: no tensor is called {names}'
  )


def _of_encoder(folder: Folder, keys: dict[str, Any]) -> Folder:
  """The folder with a config that names the encoder's family."""
  vision = {'model_type': 'clip_vision_model', **keys['vision_config']}
  return dataclasses.replace(
    folder, config={**folder.config, 'vision_config': vision}
  )


def _decoder(
  folder: Folder, keys: dict[str, Any], layout: _Layout
) -> load.ImportPlan:
  """The plan of the decoder, by names as if it were alone."""
  config = {'model_type': 'llama', **keys['text_config']}
  if keys.get('tie_word_embeddings'):
    config['tie_word_embeddings'] = True
  if quantisation := folder.config.get('quantization_config'):
    config['quantization_config'] = quantisation
  tensors: dict[str, quantised.ReadableTensor] = {}
  for name, entry in folder.tensors.items():
    if name.startswith(layout.decoder):
      tensors['model.' + name.removeprefix(layout.decoder)] = entry
    elif name == layout.head:
      tensors['lm_head.weight'] = entry
  try:
    plan = load.plan(Folder(folder.path, config, tensors))
  except errors.InputError as e:
    raise errors.InputError(
      f'the language model of {folder.path} (text_config, tensors '
      f'{layout.decoder}*): {e}'
    ) from None
  # LlavaForConditionalGeneration has a head of its own, without a factor.
  scales = dataclasses.replace(plan.config.scales, logits=1.0)
  decoder = dataclasses.replace(plan.config, scales=scales)
  return dataclasses.replace(plan, config=decoder)


def _layers(folder: Folder, value: Any) -> tuple[int, ...]:
  """`vision_feature_layer`: a number, or a list of them."""
  numbers = value if isinstance(value, list) else [value]
  whole = all(isinstance(n, int) and not isinstance(n, bool) for n in numbers)
  if not numbers or not whole:
    raise errors.InputError(
      f'{folder.path}: vision_feature_layer={value!r} of config.json must be '
      'the number of a layer, or a list of them'
    )
  return tuple(numbers)


def _projector(
  folder: Folder, layout: _Layout, widths: tuple[int, int]
) -> list[rules.Tensor]:
  """The tensors of the projector, between the widths of features and text."""
  mesh = meshes.make(meshes.MeshConfig(data=1), jax.devices()[:1])
  shapes = projector('gelu', widths, mesh).shapes
  tensors = projector_tensors(shapes, layout.projector)
  own = {name for name in folder.tensors if name.startswith(layout.projector)}
  wanted = {tensor.name for tensor in tensors}
  load.check_names(folder, wanted, own - wanted)
  load.check_tensors(folder, tensors)
  return tensors


def projector_tensors(shapes: Any, prefix: str) -> list[rules.Tensor]:
  """The tensors of a projector, whose names begin with a prefix."""
  flat = {path: tuple(x.shape) for path, x in trees.leaves(shapes).items()}
  return [
    dataclasses.replace(tensor, name=prefix + tensor.name)
    for rule in _RULES
    for tensor in rules.of_layer(rule, {}, rule.path, (), flat[rule.path])
  ]


def _check_rest(
  folder: Folder, encoder: encoders.EncoderPlan, layout: _Layout
) -> None:
  """Raises InputError for tensors that belong to no part."""
  fronts = encoder.prefix, layout.decoder, layout.projector
  rest = [
    name
    for name in folder.tensors
    if not name.startswith(fronts) and name != layout.head
  ]
  if rest:
    raise errors.InputError(
      f'{folder.path} has tensors that no LLaVA has: {shortly(rest)}'
    )
