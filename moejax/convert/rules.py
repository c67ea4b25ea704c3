"""Rules: tables that map the tensors of a checkpoint to our weights.

One rule serves import and export, all layers and all experts. Our weights are
stacks of equal layers, `dense/...` and `moe/...`, whose first axis is the layer
within the stack.

A path that begins with `mtp/` is a weight of the modules of multi-token
prediction. Their layers are numbered on from the last layer of the model.

Example, a model with 1 dense layer and 2 layers with experts of width F:

  Rule('model.layers.{layer}.mlp.experts.{E}.up_proj.weight', 'F D',
       'moe/ffn/routed/w_in_ED2F', 'E D 1 F')

  model.layers.2.mlp.experts.5.up_proj.weight [F, D], transposed, is
  moe/ffn/routed/w_in_ED2F[1, 5, :, 1, :]: layer 2 of the model is layer 1 of
  the stack `moe`, and index 1 of the axis "2" is up (0 is gate).
"""

import dataclasses
import math
import re
from collections.abc import Iterable, Iterator
from typing import Any

import jax

from moejax.convert import axes
from moejax.core import trees
from moejax.model.config import ModelConfig

STACKS = ('dense', 'moe')
MTP = 'mtp'


@dataclasses.dataclass(frozen=True)
class Rule:
  """Maps tensors of one name pattern to one of our weights.

  A rule applies only to models that have a weight at `path`: a model without
  biases has no tensors of biases.

  Attributes:
    name: name of their tensor; {layer} stands for the number of the layer, and
      {E} (the name of one of our axes) for an index of that axis.
    theirs: pattern of the axes of their tensor (`axes`).
    path: path of our weight. {stack} stands for the stack that the layer is in;
      a path that begins with the name of a stack is for its layers only.
    ours: pattern of the axes of our weight, without the layer; a number is a
      fixed index of its axis.
    factor: their tensor is ours times this factor. With 0, their tensor is
      zeros, which their format needs; its shape is taken from our weight.
    copy: whether their tensor is a copy of another one; it is written, but not
      read.
    float32: whether their tensor is float32 in files of any type, as in the
      memory of transformers (`_keep_in_fp32_modules_strict`), since it decides
      routing.
  """

  name: str
  theirs: str
  path: str
  ours: str
  factor: float = 1.0
  copy: bool = False
  float32: bool = False

  def matches(self, name: str) -> bool:
    """Whether the rule maps a tensor of this name, of any layer and expert."""
    literals = re.split(r'\{\w+\}', self.name)
    return bool(re.fullmatch(r'\d+'.join(map(re.escape, literals)), name))


@dataclasses.dataclass(frozen=True)
class Tensor:
  """One of their tensors, and its place in one of our weights.

  Attributes:
    name: name of their tensor.
    shape: shape that their tensor must have.
    path: path of our weight.
    index: block of our weight, by axis: an index, or None for the whole axis.
    rule: the rule that maps one to the other.
    sizes: sizes of the axes by name.
  """

  name: str
  shape: tuple[int, ...]
  path: str
  index: tuple[int | None, ...]
  rule: Rule
  sizes: dict[str, int]

  @property
  def free(self) -> str:
    """Pattern of those axes of our weight that the tensor has, in our order."""
    named = set(axes.names(self.rule.theirs))
    return ' '.join(n for n in axes.names(self.rule.ours) if n in named)

  @property
  def size(self) -> int:
    """Number of elements of the tensor."""
    return math.prod(self.shape)


def expand(
  rules: Iterable[Rule], config: ModelConfig, shapes: Any
) -> list[Tensor]:
  """Every tensor of a model's checkpoint, in the order of our weights.

  Args:
    rules: rules of the family.
    config: config of the model.
    shapes: tree of the shapes of its weights.
  """
  flat = {path: tuple(x.shape) for path, x in trees.leaves(shapes).items()}
  tensors = [
    tensor for rule in rules for tensor in _of_rule(rule, config, flat)
  ]
  order = {path: at for at, path in enumerate(flat)}
  return sorted(tensors, key=lambda t: (order[t.path], t.index[0] or 0))


def _of_rule(
  rule: Rule, config: ModelConfig, shapes: dict[str, tuple[int, ...]]
) -> Iterator[Tensor]:
  if '{layer}' not in rule.name:
    if rule.path in shapes:
      yield from of_layer(rule, {}, rule.path, (), shapes[rule.path])
    return
  places = dict.fromkeys(STACKS, 0)
  num_layers = config.num_layers
  mtp_kinds = (config.mtp_kind,) * config.mtp_layers
  for layer, stack in enumerate((*config.kinds, *mtp_kinds)):
    place = places[stack]
    places[stack] += 1
    path = rule.path.format(stack=stack)
    front, number = path.partition('/')[0], {'layer': layer}
    if path not in shapes:
      continue
    if front == stack:
      yield from of_layer(rule, number, path, (place,), shapes[path][1:])
    elif front == MTP and layer >= num_layers:
      place = layer - num_layers
      yield from of_layer(rule, number, path, (place,), shapes[path][1:])
    elif rule.copy and layer >= num_layers:
      yield from of_layer(rule, number, path, (), shapes[path])


def without_mtp(shapes: Any, config: ModelConfig) -> Any:
  """A model's tree of shapes without its modules of multi-token prediction.

  The layers of the modules are the last ones of the stack `config.mtp_kind`;
  that stack becomes shorter.
  """

  def one(path: str, leaf: Any) -> Any:
    if path.partition('/')[0] != config.mtp_kind:
      return leaf
    rows, *rest = leaf.shape
    shape = (rows - config.mtp_layers, *rest)
    return jax.ShapeDtypeStruct(shape, leaf.dtype)

  own = {name: tree for name, tree in shapes.items() if name != MTP}
  return trees.map_paths(one, own)


def of_layer(
  rule: Rule,
  numbers: dict[str, int],
  path: str,
  place: tuple[int, ...],
  shape: tuple[int, ...],
) -> Iterator[Tensor]:
  """The tensors of one rule in one layer.

  Args:
    rule: the rule.
    numbers: the number of the layer, for the tensor's name; {} outside layers.
    path: path of our weight.
    place: index of the layer in its stack; () outside layers.
    shape: shape of our weight, without the layer.
  """
  ours = [name for (name,) in axes.parse(rule.ours)]
  sizes = {
    name: size
    for name, size in zip(ours, shape, strict=True)
    if not name.isdigit()
  }
  counted = [name for name in sizes if '{' + name + '}' in rule.name]
  # At most one axis is numbered in a tensor's name: that of the experts.
  for at in range(sizes[counted[0]]) if counted else (None,):
    fixed = {name: at for name in counted}
    index = tuple(
      int(name) if name.isdigit() else fixed.get(name) for name in ours
    )
    yield Tensor(
      name=rule.name.format(**numbers, **fixed),
      shape=axes.shape(rule.theirs, sizes),
      path=path,
      index=place + index,
      rule=rule,
      sizes=sizes,
    )
