"""Reads and writes the vision encoders of Hugging Face folders.

  plan = encoders.plan(folder.open_folder('siglip'))
  encoder = build.encoder(plan.config, mesh)
  weights = load.weights(plan, encoder)
  save.write(encoders.export(plan.config, encoder.shapes, 'hub'), get, path)

A folder may hold an encoder alone, CLIP or SigLIP with its text model, or a
vision-language model with an encoder in it. The names of the encoder's tensors
differ in their prefix alone, which is found by the name of one tensor:

  vision_model.                files of the hub
  (none)                       files that transformers 5 writes of a new model
  vision_tower.vision_model.   files of LLaVA on the hub
  and others
"""

import dataclasses
from typing import Any

import jax

from moejax.convert import keys, load, rules
from moejax.convert.encoder_families import ENCODERS, PATCHES, EncoderFamily
from moejax.convert.folder import Folder, listed
from moejax.core import config_tree, errors, table, trees
from moejax.parallel import mesh as meshes
from moejax.vision import build
from moejax.vision.config import VisionConfig

# Prefixes of names by the value of --layout.
LAYOUTS = {'hub': 'vision_model.', 'short': ''}
# Tables that older versions of transformers stored.
_IGNORED = 'embeddings.position_ids'
_HEAD, _WITHOUT_HEAD = 'head.', {'attention': 'none'}
# Config keys that do not change what trained weights compute.
_FREE = ('init_std', 'dtype')


@dataclasses.dataclass(frozen=True)
class EncoderPlan:
  """An encoder in a folder that fits its config, and how it is read.

  Attributes:
    folder: the folder.
    family: family of the encoder.
    config: config of the encoder.
    prefix: prefix of the names of its tensors.
    tensors: tensors to read.
    ignored: names of tensors that are not of the encoder.
  """

  folder: Folder
  family: EncoderFamily
  config: VisionConfig
  prefix: str
  tensors: list[rules.Tensor]
  ignored: list[str]

  @property
  def layout(self) -> str:
    """The layout of LAYOUTS in which the folder is, or the first one."""
    names = [n for n, prefix in LAYOUTS.items() if prefix == self.prefix]
    return names[0] if names else next(iter(LAYOUTS))


@dataclasses.dataclass(frozen=True)
class EncoderExport:
  """How an encoder is written.

  Attributes:
    config: content of config.json.
    tensors: tensors to write, in the order of our weights.
  """

  config: dict[str, Any]
  tensors: list[rules.Tensor]


def plan(folder: Folder) -> EncoderPlan:
  """Checks config, names, shapes and types, without reading a tensor.

  Raises:
    InputError: there is no encoder, or more than one; a config key is not
      supported; a tensor is missing, superfluous, or of an unexpected shape or
      type.
  """
  family, theirs = _family(folder)
  try:
    config = _read(family, theirs)
  except errors.InputError as e:
    raise errors.InputError(f'{folder.path}: {e}') from None
  prefix = _prefix(folder)
  own = {name for name in folder.tensors if name.startswith(prefix)}
  inner = prefix not in LAYOUTS.values()
  if inner and not any(name.startswith(prefix + _HEAD) for name in own):
    # Vision-language models leave SigLIP's head out whatever their config says.
    pooling = _WITHOUT_HEAD.get(config.pooling, config.pooling)
    config = dataclasses.replace(config, pooling=pooling)
  tensors = _expand(family, config, shapes(config), prefix)
  wanted = {tensor.name for tensor in tensors}
  if not prefix:
    # Only names below the encoder's parts are its own.
    tops = {name.partition('.')[0] for name in wanted}
    own = {name for name in own if name.partition('.')[0] in tops}
  surplus = own - wanted - {prefix + _IGNORED}
  load.check_names(folder, wanted, surplus)
  load.check_tensors(folder, tensors)
  ignored = sorted(folder.tensors.keys() - wanted)
  return EncoderPlan(folder, family, config, prefix, tensors, ignored)


def export(config: VisionConfig, shapes: Any, layout: str) -> EncoderExport:
  """Plans a folder of an encoder alone, for `save.write`.

  Args:
    config: config of the encoder.
    shapes: tree of the shapes of its weights.
    layout: a key of LAYOUTS.

  Raises:
    InputError: no family can hold the encoder, or there is no such layout.
  """
  prefix = table.lookup('layout', LAYOUTS, layout)
  reasons = []
  for family in ENCODERS.values():
    theirs = _write(family, config)
    differences = _differences(_read(family, theirs), config)
    if not differences:
      tensors = _expand(family, config, shapes, prefix)
      order = {path: at for at, path in enumerate(trees.leaves(shapes))}
      tensors.sort(key=lambda t: (order[t.path], t.index[0] or 0))
      return EncoderExport(theirs, tensors)
    reasons.append((len(differences), family.model_type, differences))
  _, name, differences = min(reasons)
  raise errors.InputError(
    f'no family of Hugging Face can hold this encoder; the nearest is {name}, '
    f'which has {"; ".join(differences)}'
  )


def _family(folder: Folder) -> tuple[EncoderFamily, dict[str, Any]]:
  """The encoder's family, and its part of config.json."""
  outer = folder.config.get('model_type')
  theirs = folder.config.get('vision_config', folder.config)
  if not isinstance(theirs, dict):
    raise errors.InputError(
      f'{folder.path}: vision_config of config.json is {theirs!r}; it must be '
      'an object'
    )
  name = theirs.get('model_type')
  if name is None and f'{outer}_vision_model' in ENCODERS:
    name = f'{outer}_vision_model'  # older files do not repeat it
  if not isinstance(name, str) or name not in ENCODERS:
    raise errors.InputError(
      f'{folder.path} has no vision encoder that moejax reads: model_type of '
      f'config.json is {name!r}; known are: {", ".join(sorted(ENCODERS))}'
    )
  return ENCODERS[name], theirs


def _prefix(folder: Folder) -> str:
  """The prefix of the encoder's tensors."""
  found = [name for name in folder.tensors if name.endswith(PATCHES)]
  if len(found) != 1:
    has = f'has several: {listed(found)}' if found else 'has none'
    raise errors.InputError(
      f'{folder.path} should have one tensor whose name ends in {PATCHES}, and '
      f'{has}'
    )
  return found[0].removesuffix(PATCHES)


def _read(family: EncoderFamily, theirs: dict[str, Any]) -> VisionConfig:
  """The config of an encoder; raises InputError."""
  flat: dict[str, Any] = {}
  filled = {**family.defaults, **theirs}
  try:
    for key_map in family.keys:
      flat |= key_map.read(filled)
    config = config_tree.from_config_dict(VisionConfig, flat)
  except (TypeError, ZeroDivisionError) as e:
    raise errors.InputError(f'config.json cannot be used: {e}') from None
  config.check()
  return config


def _write(family: EncoderFamily, config: VisionConfig) -> dict[str, Any]:
  """The config.json of an encoder."""
  ours: keys.Keys = dataclasses.asdict(config)
  theirs: dict[str, Any] = {
    'architectures': [family.architecture],
    'model_type': family.model_type,
  }
  for key_map in family.keys:
    theirs |= key_map.write(ours)
  return theirs


def _differences(theirs: VisionConfig, ours: VisionConfig) -> list[str]:
  """Keys in which an encoder that was read back differs."""
  wanted = dataclasses.asdict(ours)
  return [
    f'{key}={value!r}, not {wanted[key]!r}'
    for key, value in dataclasses.asdict(theirs).items()
    if value != wanted[key] and key not in _FREE
  ]


def _expand(
  family: EncoderFamily, config: VisionConfig, shapes: Any, prefix: str
) -> list[rules.Tensor]:
  """Every tensor of an encoder, with its prefix."""
  flat = {path: tuple(x.shape) for path, x in trees.leaves(shapes).items()}
  tensors: list[rules.Tensor] = []
  for rule in family.rules:
    if rule.path not in flat:
      continue
    shape = flat[rule.path]
    if '{layer}' not in rule.name:
      tensors += rules.of_layer(rule, {}, rule.path, (), shape)
      continue
    for layer in range(config.num_layers):
      tensors += rules.of_layer(
        rule, {'layer': layer}, rule.path, (layer,), shape[1:]
      )
  return [dataclasses.replace(t, name=prefix + t.name) for t in tensors]


def shapes(config: VisionConfig) -> build.Weights:
  """Tree of the shapes of an encoder's weights, the same on any mesh."""
  devices = jax.devices()[:1]
  mesh = meshes.make(meshes.MeshConfig(data=1), devices)
  return build.encoder(config, mesh).shapes
