"""Which tensor of a checkpoint is which part of our weights, as data.

One line of a table serves both directions and all layers and experts. Ours are
stacks of equal layers, `dense/...` and `moe/...`, with the layer in front.

A path that begins with `mtp/` is for the layers of multi-token prediction;
their numbers go on where the model's end.

Example, 1 dense layer and 2 with experts of width F:

  Rule('model.layers.{layer}.mlp.experts.{E}.up_proj.weight', 'F D',
       'moe/ffn/routed/w_in_ED2F', 'E D 1 F')

  model.layers.2.mlp.experts.5.up_proj.weight [F, D], transposed, is
  moe/ffn/routed/w_in_ED2F[1, 5, :, 1, :]: layer 2 is the stack's place 1, and
  of gate and up (0 and 1) it is the second.
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
  """One line of the table.

  A rule whose path a model does not have is not for that model: a model
  without biases has no tensors of biases.

  Attributes:
    name: name of their tensor; may have {layer} and the name of one of our
      axes.
    theirs: pattern of the axes of their tensor.
    path: path of our weight; {stack} is that of the layer, and a path that
      begins with a stack is for the layers in it.
    ours: pattern of the axes of our weight, without the layer; a number is a
      fixed index.
    factor: theirs is ours times that. 0: a tensor of zeros that the format
      wants; it takes its size from ours.
    copy: another tensor says the same; this one is written and not read.
    float32: it decides routing and is float32 in files of any other type, as
      transformers keeps it in memory (`_keep_in_fp32_modules_strict`).
  """

  name: str
  theirs: str
  path: str
  ours: str
  factor: float = 1.0
  copy: bool = False
  float32: bool = False

  def matches(self, name: str) -> bool:
    """Whether a tensor of this name comes from this rule, for any layer."""
    parts = re.split(r'\{\w+\}', self.name)
    return bool(re.fullmatch(r'\d+'.join(map(re.escape, parts)), name))


@dataclasses.dataclass(frozen=True)
class Tensor:
  """One of their tensors, and where it is in ours.

  Attributes:
    name: name of their tensor.
    shape: shape that their tensor must have.
    path: path of our weight.
    index: place in our weight, by axis: a number, or None for the whole axis.
    rule: rule that turns one into the other.
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
    """Pattern of our axes that the tensor has."""
    named = set(axes.names(self.rule.theirs))
    return ' '.join(n for n in axes.names(self.rule.ours) if n in named)

  @property
  def size(self) -> int:
    """Number of elements."""
    return math.prod(self.shape)


def expand(
  rules: Iterable[Rule], config: ModelConfig, shapes: Any
) -> list[Tensor]:
  """Every tensor that a model of this config has, weight by weight.

  Args:
    rules: rules of the family.
    config: config of the model.
    shapes: shapes of its weights.
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
      yield from _of_layer(rule, {}, rule.path, (), shapes[rule.path])
    return
  places = dict.fromkeys(STACKS, 0)
  last, kinds = config.num_layers, (config.mtp_kind,) * config.mtp_layers
  for layer, stack in enumerate((*config.kinds, *kinds)):
    place = places[stack]
    places[stack] += 1
    path = rule.path.format(stack=stack)
    front, number = path.partition('/')[0], {'layer': layer}
    if path not in shapes:
      continue
    if front == stack:
      yield from _of_layer(rule, number, path, (place,), shapes[path][1:])
    elif front == MTP and layer >= last:
      place = layer - last
      yield from _of_layer(rule, number, path, (place,), shapes[path][1:])
    elif rule.copy and layer >= last:
      yield from _of_layer(rule, number, path, (), shapes[path])


def without_mtp(shapes: Any, config: ModelConfig) -> Any:
  """The shapes of a model's weights as if it had no multi-token prediction."""

  def one(path: str, leaf: Any) -> Any:
    if path.partition('/')[0] != config.mtp_kind:
      return leaf
    rows, *rest = leaf.shape
    shape = (rows - config.mtp_layers, *rest)
    return jax.ShapeDtypeStruct(shape, leaf.dtype)

  own = {name: tree for name, tree in shapes.items() if name != MTP}
  return trees.map_paths(one, own)


def _of_layer(rule, numbers, path, place, shape) -> Iterator[Tensor]:
  ours = [name for (name,) in axes.parse(rule.ours)]
  sizes = {
    name: size
    for name, size in zip(ours, shape, strict=True)
    if not name.isdigit()
  }
  counted = [name for name in sizes if '{' + name + '}' in rule.name]
  # At most one axis is counted in a name: that of the experts.
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
