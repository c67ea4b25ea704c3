"""Loads the tensors of a checkpoint folder into the weights of a model.

Stages:
  1. `plan` converts config.json to a ModelConfig, and compares the names,
     shapes and types of the tensors that such a model has with the headers of
     the files.
  2. `weights` goes through the weights one by one. It allocates a host buffer
     for each region of the weight that lies on a device of this host, copies
     each tensor from the mapped file to its place there, transposed and in
     float32, and moves the buffers to the devices. On CPU the buffers become
     the arrays. So the host needs memory for one weight, or, on CPU, for all.

Regions that lie on other hosts are not read; neither are tensors that an
earlier process has read into the buffers (convert/staging.py).
"""

import dataclasses
import math
import re
from collections.abc import Callable, Iterable
from typing import Any, Protocol

import jax
import numpy as np

from moejax.convert import (
  axes,
  buffers,
  configs,
  phi3,
  quantised,
  rules,
)
from moejax.convert.families.family import Family
from moejax.convert.folder import Folder, listed, shortly
from moejax.core import errors, trees
from moejax.model import build
from moejax.model.config import ModelConfig
from moejax.parallel import mesh as meshes

FLOATS = ('F32', 'F16', 'BF16', 'F64', *quantised.KINDS)
# Rows that `_cast` copies at a time, and the length up to which it loops over
# the first axis of an array.
ROWS, MANY = 64, 256
Progress = Callable[[int], None]


class Readable(Protocol):
  """Tensors of a folder that are to be read, as in `ImportPlan`."""

  @property
  def folder(self) -> Folder: ...
  @property
  def tensors(self) -> list[rules.Tensor]: ...


class Sharded(Protocol):
  """The shape and the sharding of every weight, as in `build.Model`."""

  @property
  def shapes(self) -> dict[str, Any]: ...
  @property
  def shardings(self) -> dict[str, Any]: ...


@dataclasses.dataclass(frozen=True)
class ImportPlan:
  """A checkpoint that fits the weights of a model, and how it is read.

  Attributes:
    folder: folder of the checkpoint.
    family: Hugging Face family of the checkpoint.
    config: config of the model.
    layout: layout of the experts, a key of `Family.experts`.
    tensors: tensors to read, in the order of our weights.
    ignored: names of tensors that are not read.
  """

  folder: Folder
  family: Family
  config: ModelConfig
  layout: str
  tensors: list[rules.Tensor]
  ignored: list[str]


def plan(folder: Folder) -> ImportPlan:
  """Checks config, names, shapes and types, without reading a tensor.

  Raises:
    InputError: a config key is not supported; or a tensor is missing,
      superfluous, or of an unexpected shape or type.
  """
  if folder.config.get('model_type') == phi3.KIND:
    folder = phi3.as_mistral(folder)
  family = configs.family_of(folder.config)
  try:
    config = configs.read(family, folder.config)
  except errors.InputError as e:
    raise errors.InputError(f'{folder.path}: {e}') from None
  mtp_layer = re.compile(rf'model\.layers\.{config.num_layers}\.')
  if not any(map(mtp_layer.match, folder.tensors)):
    # A folder that transformers wrote has the key, but not the weights, of
    # multi-token prediction.
    config = dataclasses.replace(config, mtp_layers=0)
  layout, experts = _layout(family, folder.tensors)
  all_rules = (*family.rules, *experts)
  tensors = rules.expand(all_rules, config, shapes(config))
  tensors = [t for t in tensors if t.rule.factor and not t.rule.copy]
  wanted = {tensor.name for tensor in tensors}
  rest = sorted(folder.tensors.keys() - wanted)
  ignored = [name for name in rest if _is_ignored(name, family, config)]
  check_names(folder, wanted, set(rest) - set(ignored))
  check_tensors(folder, tensors)
  return ImportPlan(folder, family, config, layout, tensors, ignored)


def remarks(plan: ImportPlan) -> list[str]:
  """Lines about files and tensors of the folder that are not used."""
  of_activations = [
    name for name in plan.ignored if quantised.ACTIVATIONS.fullmatch(name)
  ]
  others = sorted({*plan.ignored} - {*of_activations})
  lines = []
  if plan.folder.unused:
    names = listed(plan.folder.unused, 3)
    lines.append(f'Files beside the weights are not used: {names}.')
  if of_activations:
    lines.append(
      f'Not read: {shortly(of_activations)}, scales of activations, which are '
      'not quantised here.'
    )
  if others:
    lines.append(f'Not read: {shortly(others)}.')
  return lines


def shapes(config: ModelConfig) -> build.Weights:
  """Tree of the shapes of a model's weights; it is the same on any mesh."""
  mesh = meshes.make(meshes.MeshConfig(data=1), jax.devices()[:1])
  return build.build(config, mesh).shapes


def _layout(
  family: Family, names: Iterable[str]
) -> tuple[str, tuple[rules.Rule, ...]]:
  """The layout of experts that matches the most tensor names, and its rules."""
  counts = {
    layout: sum(any(rule.matches(n) for rule in layout_rules) for n in names)
    for layout, layout_rules in family.experts.items()
  }
  layout = max(counts, key=lambda layout: counts[layout])
  return layout, family.experts[layout]


def _is_ignored(name: str, family: Family, config: ModelConfig) -> bool:
  if config.tie_embeddings and name == 'lm_head.weight':
    return True
  layer = re.match(r'model\.layers\.(\d+)\.', name)
  if family.predicts and layer and int(layer[1]) >= config.num_layers:
    return True
  if quantised.ACTIVATIONS.fullmatch(name):
    return True
  return any(re.fullmatch(pattern, name) for pattern in family.ignored)


def check_names(folder: Folder, wanted: set[str], surplus: set[str]) -> None:
  """Checks the names of a folder's tensors.

  Args:
    folder: the folder.
    wanted: names that it must have.
    surplus: names that it has and should not have.

  Raises:
    InputError: a tensor is missing or superfluous.
  """
  missing = sorted(wanted - folder.tensors.keys())
  odd = {name for name in surplus if quantised.OTHERS.fullmatch(name)}
  how = quantised.by(folder.config)
  kinds = {entry.dtype for entry in folder.tensors.values()}
  # If config.json says that the weights are quantised and no tensor is in a
  # known format, all unexpected names are taken to be of the unknown format.
  if how and (missing or surplus) and not kinds & {*quantised.KINDS}:
    odd = odd or surplus or {*missing}
  if odd:
    verb = 'has' if odd <= surplus else 'lacks'
    raise errors.InputError(
      f'{folder.path} is quantised{how} in a way that moejax does not read: it '
      f'{verb} {shortly(odd)}; {quantised.REMEDY}'
    )
  lines = []
  if missing:
    lines.append(f'lacks {shortly(missing)}')
  if surplus:
    lines.append(f'has tensors that no such model has: {shortly(surplus)}')
  if lines:
    kind = folder.config.get('model_type')
    raise errors.InputError(
      f'{folder.path} does not fit its config.json (a {kind}): it '
      f'{" and ".join(lines)}'
    )


def check_tensors(folder: Folder, tensors: list[rules.Tensor]) -> None:
  """Raises InputError for tensors of another shape, or that are no floats."""
  entries = folder.tensors
  shapes = [
    f'{t.name} {list(entries[t.name].shape)}, not {list(t.shape)}'
    for t in tensors
    if entries[t.name].shape != t.shape
  ]
  if shapes:
    raise errors.InputError(
      f'{folder.path} has tensors of other shapes than config.json says: '
      f'{listed(shapes)}'
    )
  types = [
    f'{t.name} {entries[t.name].dtype}'
    for t in tensors
    if entries[t.name].dtype not in FLOATS
  ]
  if types:
    raise errors.InputError(
      f'{folder.path} has tensors that are not {", ".join(FLOATS)}: '
      f'{listed(types)}{quantised.by(folder.config)}; {quantised.REMEDY}'
    )


def weights(
  plan: Readable,
  model: Sharded,
  progress: Progress = lambda _: None,
  into: buffers.Buffers = buffers.MEMORY,
) -> build.Weights:
  """Reads the weights onto the mesh of a model.

  Args:
    plan: plan of the checkpoint.
    model: the structure of the plan's config, or of a config that differs only
      in keys on which the weights do not depend.
    progress: called with the stored bytes of each tensor once it is in its
      buffers.
    into: the buffers.

  Raises:
    InputError: a tensor has a number that is not finite.
    ValueError: some elements of a weight have no rule, a bug in the family.
  """
  by_path: dict[str, list[rules.Tensor]] = {}
  for tensor in plan.tensors:
    by_path.setdefault(tensor.path, []).append(tensor)
  shardings = trees.leaves(model.shardings)

  def one(path: str, leaf: jax.ShapeDtypeStruct) -> jax.Array:
    tensors = by_path.get(path, [])
    made = sum(tensor.size for tensor in tensors)
    whole = math.prod(leaf.shape)
    # A router's state starts at zero, and some families have no tensors for it.
    if made != whole and not (made == 0 and '/router_state/' in path):
      raise ValueError(f'{path}: {made} of {whole} elements have a rule')
    regions = _regions(leaf, shardings[path])
    blocks = {
      region: into.empty(path, region, leaf.dtype)
      for region in set(regions.values())
    }
    for tensor in tensors:
      if not into.has(tensor.name):
        size = _place(plan.folder.tensors[tensor.name], tensor, blocks)
        into.placed(tensor.name, size)
        progress(size)
    return jax.make_array_from_single_device_arrays(
      leaf.shape,
      shardings[path],
      [
        jax.device_put(blocks[region], device, may_alias=True)
        for device, region in regions.items()
      ],
    )

  return trees.map_paths(one, model.shapes)


def read_weight(
  plan: Readable,
  tensors: Iterable[rules.Tensor],
  path: str,
  leaf: jax.ShapeDtypeStruct,
  layer: int | None = None,
) -> np.ndarray:
  """One weight in memory, or one layer of it; elements without a tensor are 0.

  Args:
    plan: plan of the checkpoint.
    tensors: those of the plan's tensors that are of this weight.
    path: path of the weight.
    leaf: shape and type of the whole weight.
    layer: index on its first axis, which the result does not have; None reads
      the whole weight.

  Raises:
    InputError: a tensor has a number that is not finite.
  """
  bounds = [(0, size) for size in leaf.shape]
  if layer is not None:
    bounds[0] = layer, layer + 1
  region = tuple(bounds)
  block = buffers.MEMORY.empty(path, region, leaf.dtype)
  for tensor in tensors:
    _place(plan.folder.tensors[tensor.name], tensor, {region: block})
  return block if layer is None else block[0]


def _regions(
  leaf: jax.ShapeDtypeStruct, sharding: jax.sharding.Sharding
) -> dict[jax.Device, buffers.Region]:
  """The region of a weight that each device of this host holds."""
  indices = sharding.addressable_devices_indices_map(leaf.shape)
  return {
    device: tuple(
      along.indices(size)[:2]
      for along, size in zip(index or (), leaf.shape, strict=True)
    )
    for device, index in indices.items()
  }


def _place(
  entry: quantised.ReadableTensor,
  tensor: rules.Tensor,
  blocks: dict[buffers.Region, np.ndarray],
) -> int:
  """Reads a tensor into the regions of its weight; returns its stored bytes.

  A tensor that overlaps no region is not read: reading a quantised tensor would
  compute all of its numbers.
  """
  here = [pair for pair in blocks.items() if _is_in(tensor.index, pair[0])]
  if here:
    x = axes.unpack(entry.read(), tensor.rule.theirs, tensor.free, tensor.sizes)
    for region, buffer in here:
      _copy(x, tensor, region, buffer)
  return entry.num_bytes


def _is_in(index: tuple[int | None, ...], region: buffers.Region) -> bool:
  """Whether a region overlaps the block at an index."""
  return all(
    at is None or start <= at < stop
    for at, (start, stop) in zip(index, region, strict=True)
  )


def _copy(
  x: np.ndarray,
  tensor: rules.Tensor,
  region: buffers.Region,
  buffer: np.ndarray,
) -> None:
  """Copies the overlap of a tensor and a region to its place in the buffer."""
  target: list[slice | int] = []
  source: list[slice] = []
  for at, (start, stop) in zip(tensor.index, region, strict=True):
    if at is None:
      target.append(slice(None))
      source.append(slice(start, stop))
    else:
      target.append(at - start)
  place = buffer[tuple(target)]
  _cast(place, x[tuple(source)])
  # Testing the sum first needs no mask in memory. A sum of finite numbers may
  # overflow, so the elements are tested after it.
  with np.errstate(over='ignore', invalid='ignore'):
    is_finite = np.isfinite(place.sum())
  if not is_finite and not (finite := np.isfinite(place)).all():
    raise errors.InputError(
      f'{tensor.name} has {place[~finite].flat[0]}: the file is damaged, or '
      'the model had diverged; no model can be made of it'
    )
  if tensor.rule.factor != 1:
    place /= tensor.rule.factor


def _cast(target: np.ndarray, source: np.ndarray) -> None:
  """Copies to another type, some rows at a time.

  A transposed source is read with large strides; a few rows of it fit into the
  CPU's cache.
  """
  if source.ndim > 2 and len(source) <= MANY:
    for target_row, source_row in zip(target, source, strict=True):
      _cast(target_row, source_row)
    return
  step = ROWS if source.ndim > 1 else max(source.size, 1)
  for at in range(0, len(source), step):
    # `astype` makes a copy in the order of the file, and transposing that copy
    # is twice as fast as transposing the file's bytes.
    np.copyto(
      target[at : at + step], source[at : at + step].astype(target.dtype)
    )
