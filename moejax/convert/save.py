"""Writes weights as a folder that transformers, vLLM and SGLang load.

  config.json, generation_config.json
  model-00001-of-00002.safetensors, ...   or one model.safetensors
  model.safetensors.index.json            if there are several
  tokenizer.json, ...                     unchanged copies (`companions`)

In memory are one weight, or the part of it that `write`'s argument `get` loads,
and one tensor of the checkpoint.
"""

import dataclasses
import itertools
import math
import pathlib
from collections.abc import Callable, Iterator
from typing import Any, Protocol

import ml_dtypes
import numpy as np

from moejax.convert import (
  axes,
  companions,
  configs,
  folder,
  rules,
  tensor_files,
)
from moejax.convert.families import FORMS
from moejax.convert.families.family import Family
from moejax.core import errors, files, table, trees
from moejax.model.config import ModelConfig

DTYPES = {
  'bfloat16': np.dtype(ml_dtypes.bfloat16),
  'float16': np.dtype(np.float16),
  'float32': np.dtype(np.float32),
}
Progress = Callable[[int], None]


class Indexed(Protocol):
  """A weight: an array, or an object that reads the blocks it is indexed by."""

  def __getitem__(self, index: Any, /) -> np.ndarray: ...


class Writable(Protocol):
  """A config.json and the tensors of a folder, as in `ExportPlan`."""

  @property
  def config(self) -> dict[str, Any]: ...
  @property
  def tensors(self) -> list[rules.Tensor]: ...


@dataclasses.dataclass(frozen=True)
class ExportPlan:
  """How a model is written.

  Attributes:
    family: Hugging Face family to write.
    config: content of config.json, without ids of special tokens.
    tensors: tensors to write, in the order of our weights.
    dropped: whether modules of multi-token prediction are left out because the
      family cannot hold them.
  """

  family: Family
  config: dict[str, Any]
  tensors: list[rules.Tensor]
  dropped: bool = False

  def num_bytes(self, dtype: str) -> int:
    """Size of all tensors in a file type, one of DTYPES."""
    return num_bytes(self.tensors, dtype)


def plan(
  model: ModelConfig, shapes: Any, name: str = '', was: str = ''
) -> ExportPlan:
  """Chooses the family of Hugging Face as which a model is written.

  Args:
    model: config of the model.
    shapes: tree of the shapes of its weights.
    name: one of FORMS; '' means the first one that can hold the model.
    was: model_type of the folder that its weights came from, '' for none. It is
      tried first if transformers has its class.

  Raises:
    InputError: the named family, or every family, cannot hold the model.
  """
  if name:
    return _plan(table.lookup('family', FORMS, name), model, shapes)
  reasons: list[tuple[float, int, str, str]] = []
  forms = FORMS
  if was in FORMS and FORMS[was].in_transformers:
    forms = {was: FORMS[was], **FORMS}
  for name, family in forms.items():
    if bool(model.num_moe) == any(family.experts.values()):
      try:
        return _plan(family, model, shapes)
      except errors.InputError as e:
        # Only errors raised after a full comparison have a number.
        number = getattr(e, 'number', math.inf)
        reasons.append((number, len(reasons), name, str(e)))
  *_, name, reason = min(reasons)
  raise errors.InputError(
    f'no family of Hugging Face can hold this model; the nearest is {name}: '
    f'{reason}'
  )


def write(
  plan: Writable,
  get: Callable[[str], Indexed],
  path: pathlib.Path,
  *,
  dtype: str = 'float32',
  shard_bytes: int = 5_000_000_000,
  beside: companions.Companions | None = None,
  progress: Progress = lambda _: None,
) -> None:
  """Writes the folder.

  Args:
    plan: the plan.
    get: returns the weight at a path; called once for each weight, in order.
    path: the folder, which is created if it does not exist.
    dtype: type of all tensors except those that stay float32 (`rules.Rule`).
    shard_bytes: maximum size of a file; a larger tensor has a file of its own.
    beside: tokenizer, ids of special tokens and generation settings. If None,
      config.json has no such ids, and the defaults of the family's class in
      transformers apply.
    progress: called with the bytes of each tensor once it is written.

  Raises:
    InputError: the folder has weights already, or a tensor has a number that
      its type cannot hold. In the second case no weights are left there.
  """
  _check_empty(path)
  path.mkdir(parents=True, exist_ok=True)
  kind = table.lookup('dtype', DTYPES, dtype)
  shards = list(_shards(plan.tensors, kind, shard_bytes))
  names = [folder.SINGLE]
  if len(shards) > 1:
    count = len(shards)
    names = [f'model-{n + 1:05d}-of-{count:05d}' for n in range(count)]
    names = [f'{name}.safetensors' for name in names]
  stream = _stream(plan.tensors, get, kind, progress)
  places: dict[str, str] = {}
  try:
    for name, shard in zip(names, shards, strict=True):
      specs = {t.name: (_kind(t, kind), t.shape) for t in shard}
      taken = itertools.islice(stream, len(shard))
      tensor_files.write(path / name, specs, taken)
      places |= dict.fromkeys(specs, name)
  except errors.InputError:
    for name in names:
      (path / name).unlink(missing_ok=True)
    raise
  if len(shards) > 1:
    total = {'total_size': num_bytes(plan.tensors, dtype)}
    index = {'metadata': total, folder.MAP: places}
    files.atomic_write_json(path / folder.INDEX, index)
  ids = {}
  if beside is not None:
    ids = beside.ids
    for name, file in beside.files.items():
      (path / name).parent.mkdir(exist_ok=True)
      (path / name).write_bytes(companions.content(file))
    files.atomic_write_json(path / companions.GENERATION, beside.generation)
  files.atomic_write_json(
    path / folder.CONFIG, {**plan.config, **ids, 'torch_dtype': dtype}
  )


def _plan(family: Family, model: ModelConfig, shapes: Any) -> ExportPlan:
  dropped = model.mtp_layers and not family.predicts
  if dropped:
    shapes = rules.without_mtp(shapes, model)
    model = dataclasses.replace(model, mtp_layers=0)
  theirs = configs.write(family, model)
  experts = next(iter(family.experts.values()))
  tensors = rules.expand((*family.rules, *experts), model, shapes)
  written = dict.fromkeys(trees.leaves(shapes), 0)
  for tensor in tensors:
    if tensor.rule.factor and not tensor.rule.copy:
      written[tensor.path] += tensor.size
  lost = [
    path
    for path, leaf in trees.leaves(shapes).items()
    if written[path] != math.prod(leaf.shape)
    # Of the router state, only selection biases change what the model computes.
    and ('/router_state/' not in path or path.endswith('/selection_bias_E'))
  ]
  if lost:
    raise configs.UnlikeError(
      f'a {family.model_type} has no place for {folder.listed(lost)}',
      len(lost),
    )
  return ExportPlan(family, theirs, tensors, bool(dropped))


def _kind(tensor: rules.Tensor, kind: np.dtype) -> np.dtype:
  """The type in which a tensor is written in files of type `kind`."""
  return DTYPES['float32'] if tensor.rule.float32 else kind


def num_bytes(tensors: list[rules.Tensor], dtype: str) -> int:
  """Size of tensors in a file type, one of DTYPES."""
  return sum(_num_bytes(tensor, DTYPES[dtype]) for tensor in tensors)


def _num_bytes(tensor: rules.Tensor, kind: np.dtype) -> int:
  return tensor.size * _kind(tensor, kind).itemsize


def _shards(
  tensors: list[rules.Tensor], kind: np.dtype, most: int
) -> Iterator[list[rules.Tensor]]:
  """Consecutive tensors of at most `most` bytes together, or one larger one."""
  shard: list[rules.Tensor] = []
  size = 0
  for tensor in tensors:
    more = _num_bytes(tensor, kind)
    if shard and size + more > most:
      yield shard
      shard, size = [], 0
    shard.append(tensor)
    size += more
  yield shard


def _stream(
  tensors: list[rules.Tensor],
  get: Callable[[str], Indexed],
  kind: np.dtype,
  progress: Progress,
) -> Iterator[tuple[str, np.ndarray]]:
  """Name and value of each tensor, read from our weights one by one."""
  path: str | None = None
  weight: Indexed = np.zeros(0)
  for tensor in tensors:
    if tensor.path != path:
      weight = np.zeros(0)  # frees the last weight before the next is read
      path, weight = tensor.path, get(tensor.path)
    at = tuple(slice(None) if i is None else i for i in tensor.index)
    x, factor = weight[at], tensor.rule.factor
    if factor != 1:
      x = np.zeros_like(x) if factor == 0 else x * x.dtype.type(factor)
    x = _cast(tensor.name, x, _kind(tensor, kind))
    x = axes.pack(x, tensor.free, tensor.rule.theirs)
    yield tensor.name, x
    progress(x.nbytes)


def _cast(name: str, x: np.ndarray, kind: np.dtype) -> np.ndarray:
  """Casts an array.

  Raises:
    InputError: a number is not finite, or too large for the type.
  """
  with np.errstate(over='ignore'):
    cast = x.astype(kind)
  if not (finite := np.isfinite(cast)).all():
    value = float(x[~finite][0])
    if math.isfinite(value):
      raise errors.InputError(
        f'{name} has {value:g}, which is beyond what {kind} holds '
        f'({float(ml_dtypes.finfo(kind).max):g}); take --dtype=bfloat16 or '
        'float32'
      )
    raise errors.InputError(
      f'{name} has {value}: training has diverged, and the model says nothing; '
      'export an earlier checkpoint'
    )
  return cast


def _check_empty(path: pathlib.Path) -> None:
  if path.exists() and not path.is_dir():
    raise errors.InputError(f'{path} is not a folder; take another --to')
  old = (
    sorted(f.name for f in path.glob('*.safetensors*')) if path.exists() else []
  )
  if old:
    raise errors.InputError(
      f'{path} has weights already: {folder.listed(old)}; take another --to'
    )
