"""LoRA: adapters are trained, and the weights of the model stay as they are.

LoRA (arXiv 2106.09685, section 4.1) trains two small matrices beside W:

  W + alpha / rank A B      A is drawn, B is zero at the start

So a run begins with the very model that it starts from. Experts that are stored
as one weight have a pair each, and so have gate and up (`model.adapted`). The
weights to which adapters are added are named by group:

  attention   the projections of attention, all of them
  experts     the matrices of routed experts
  shared      the matrices of shared experts
  dense       the matrices of feed-forwards without experts

Trained are the adapters alone, and the router states, which rules of their own
move. They are the `weights` of a training state; the model's weights, the base,
are an input of the training step, which only reads them.

`LoraModel` is a `Model` whose weights are the adapters. With the base inserted
(`LoraModel.on`) it binds them as any model does.
"""

import dataclasses
import functools
import math
import re
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from moejax.core import errors, fields, table, trees
from moejax.model import adapted, build, formed
from moejax.model.adapted import Form
from moejax.model.decoder import Decoder
from moejax.moe.expert_parallel.base import ExpertParallel
from moejax.parallel import rules

# Group of weights -> the paths of its weights.
GROUPS: Mapping[str, str] = {
  'attention': r'(dense|moe)/attention/w_\w+',
  'experts': r'moe/ffn/routed/w_\w+_E\w\w+',
  'shared': r'moe/ffn/shared/w_\w+_E\w\w+',
  'dense': r'dense/ffn/w/w_\w+_E\w\w+',
}
_STATE = '/router_state/'
_EXPERTS, _HALVES = 'E', '2'  # letters of dimensions that count matrices


@dataclasses.dataclass(frozen=True)
class Lora(fields.Checked):
  """Adapters beside the weights of a model.

  Attributes:
    rank: columns of A and rows of B; 0 trains the weights themselves.
    alpha: A B is multiplied by alpha / rank.
    on: groups of weights that have adapters; () for all that the model has.
  """

  rank: int = fields.number(0, at_least=0, note='0: no adapters')
  alpha: float = fields.number(32.0, above=0, at_most=10**6)
  on: tuple[str, ...] = ()

  @property
  def scale(self) -> float:
    """The factor of A B."""
    return self.alpha / self.rank

  def check(self) -> None:
    """Raises InputError for unknown groups, or keys that do nothing."""
    for name in self.on:
      if name not in GROUPS:
        raise table.unknown('train.lora.on', name, GROUPS)
    if not self.rank and self != Lora():
      key = 'on' if self.on else 'alpha'
      raise errors.InputError(
        f'train.lora.{key} does nothing without adapters: set train.lora.rank, '
        'or leave it out'
      )


@dataclasses.dataclass(frozen=True, eq=False)
class LoraModel(build.Model):
  """A model whose weights are adapters and router states.

  Attributes:
    base: the model without adapters.
    forms: of the weights with adapters, by path.
    scale: of A B.
    base_weights: the weights of `base`, within a step; see `on`.
  """

  base: build.Model
  forms: dict[str, Form]
  scale: float
  base_weights: build.Weights | None = None

  def on(self, weights: build.Weights) -> 'LoraModel':
    """This model beside these weights of `base`."""
    return dataclasses.replace(self, base_weights=weights)

  def init(self, key: jax.Array) -> build.Weights:
    """Adapters and router states of a base with random weights."""
    return self.begin(self.base.init(key), key)

  def begin(self, base: build.Weights, key: jax.Array) -> build.Weights:
    """Adapters whose products are zero, and the router states of a base.

    A has the standard deviation 1 / sqrt(inputs), B is zero.

    Args:
      base: the weights of `base`.
      key: random key of A.
    """
    shapes = trees.leaves(self.shapes)

    def make(base: build.Weights, key: jax.Array) -> build.Weights:
      made = {p: x for p, x in trees.leaves(base).items() if is_state(p)}
      for i, (path, form) in enumerate(sorted(self.forms.items())):
        a, b = shapes[f'{path}/a'], shapes[f'{path}/b']
        inputs = _size(trees.leaves(self.base.shapes)[path], form, form.inputs)
        drawn = jax.random.normal(jax.random.fold_in(key, i), a.shape, a.dtype)
        made |= {
          f'{path}/a': drawn * inputs**-0.5,
          f'{path}/b': jnp.zeros(b.shape, b.dtype),
        }
      return trees.nest({path: made[path] for path in shapes})

    return jax.jit(make, out_shardings=self.shardings)(base, key)

  def bind(self, weights: build.Weights) -> Decoder:
    """The decoder with these adapters; only of a model from `on`."""
    if self.base_weights is None:
      raise ValueError('adapters are bound beside the weights of a base: `on`')
    joined = self._joined(self.base_weights, weights)
    return nnx.merge(self.graph, formed.as_state(joined))

  def merged(
    self, base: build.Weights, weights: build.Weights
  ) -> build.Weights:
    """The weights of `base` with the adapters added, for use without them."""
    return self._merge(base, weights)

  @functools.cached_property
  def _merge(self) -> Any:
    return jax.jit(
      lambda base, own: formed.arrays(self._joined(base, own)),
      out_shardings=self.base.shardings,
    )

  def with_expert_parallel(
    self, expert_parallel: ExpertParallel
  ) -> 'LoraModel':
    """This model with another `moe.expert_parallel`; weights stay the same."""
    base = self.base.with_expert_parallel(expert_parallel)
    return dataclasses.replace(
      self, base=base, config=base.config, graph=base.graph
    )

  def _joined(self, base: build.Weights, weights: build.Weights) -> Any:
    """The tree of `base` with each adapted weight and its adapter as one."""
    own = trees.leaves(weights)

    def join(path: str, weight: jax.Array) -> Any:
      if path not in self.forms:
        return own.get(path, weight)
      pair = own[f'{path}/a'], own[f'{path}/b']
      return adapted.Adapted(weight, *pair, self.forms[path], self.scale)

    return trees.map_paths(join, base)


def learner(model: build.Model, config: Lora) -> build.Model:
  """The model whose weights are trained: with adapters, or the model itself."""
  return of(model, config) if config.rank else model


def of(base: build.Model, config: Lora) -> LoraModel:
  """The model that is trained in place of another, with adapters beside it.

  Raises:
    InputError: no weight is in a group of `train.lora.on`, or the rank is above
      that of a matrix.
  """
  shapes = trees.leaves(base.shapes)
  forms = forms_of(shapes, config)
  by_path: dict[str, tuple[Any, tuple[str, ...], bool]] = {}
  for path, leaf in shapes.items():
    if is_state(path):
      by_path[path] = leaf, base.axes[path], base.decays[path]
    elif path in forms:
      own = _adapter(path, leaf, base.axes[path], forms[path], config.rank)
      by_path |= {f'{path}/{name}': x for name, x in own.items()}
  axes = {path: own for path, (_, own, _) in by_path.items()}
  tree = trees.nest({path: leaf for path, (leaf, _, _) in by_path.items()})
  return LoraModel(
    base.config,
    base.mesh,
    base.graph,
    shapes=tree,
    axes=axes,
    decays={path: own for path, (_, _, own) in by_path.items()},
    shardings=rules.shardings(axes, tree, base.mesh),
    base=base,
    forms=forms,
    scale=config.scale,
  )


def forms_of(paths: Any, config: Lora) -> dict[str, Form]:
  """The form of each weight that has an adapter, by path.

  Args:
    paths: of all weights of a model.
    config: names the groups.

  Raises:
    InputError: a group of `train.lora.on` has no weight.
  """
  found = {
    group: [path for path in paths if re.fullmatch(pattern, path)]
    for group, pattern in GROUPS.items()
  }
  for group in config.on:
    if not found[group]:
      has = ','.join(name for name, own in found.items() if own)
      raise errors.InputError(
        f'train.lora.on has {group}, of which the model has no weights; it has '
        f'{has}'
      )
  return {
    path: form_of(path)
    for group in config.on or GROUPS
    for path in found[group]
  }


def form_of(path: str) -> Form:
  """The form of a weight, by its name.

  The last dimension is the output of experts' matrices and of the projection
  behind attention. The first is the input of the other projections.
  """
  name = path.rsplit('/', 1)[1]
  letters = name.rsplit('_', 1)[1]
  if letters.startswith(_EXPERTS):
    inputs = ''.join(x for x in letters[1:-1] if x != _HALVES)
    return Form(letters, inputs, letters[-1])
  if name.startswith('w_o_'):
    return Form(letters, letters[:-1], letters[-1])
  return Form(letters, letters[0], letters[1:])


def counts(model: LoraModel) -> dict[str, int]:
  """The number of adapters' parameters by group, of groups that have some."""
  leaves = trees.leaves(model.shapes)
  found = {
    group: sum(
      math.prod(leaves[f'{path}/{name}'].shape)
      for path in model.forms
      if re.fullmatch(pattern, path)
      for name in 'ab'
    )
    for group, pattern in GROUPS.items()
  }
  return {group: count for group, count in found.items() if count}


def is_state(path: str) -> bool:
  """Whether a weight is a router state, which has a rule of its own."""
  return _STATE in path


def pair(leaf: Any, form: Form, rank: int) -> tuple[Any, Any]:
  """The shapes of A and B of a weight, layers in front."""
  layers = len(leaf.shape) - len(form.letters)
  size = dict(zip(form.letters, leaf.shape[layers:], strict=True))
  size[adapted.RANK] = rank

  def one(letters: str) -> jax.ShapeDtypeStruct:
    shape = (*leaf.shape[:layers], *(size[x] for x in letters))
    return jax.ShapeDtypeStruct(shape, leaf.dtype)

  return one(form.a), one(form.b)


def _adapter(
  path: str, leaf: Any, axes: tuple[str, ...], form: Form, rank: int
) -> dict[str, tuple[Any, tuple[str, ...], bool]]:
  """Shape, names of dimensions and decay of A and of B."""
  most = min(_size(leaf, form, form.inputs), _size(leaf, form, form.outputs))
  if rank > most:
    raise errors.InputError(
      f'train.lora.rank={rank}, but {path} has matrices of rank {most}: set '
      f'train.lora.rank={most} or less, or leave its group out of train.lora.on'
    )
  layers = len(leaf.shape) - len(form.letters)
  name = dict(zip(form.letters, axes[layers:], strict=True))
  name[adapted.RANK] = 'unsharded'
  named = lambda letters: (*axes[:layers], *(name[x] for x in letters))
  a, b = pair(leaf, form, rank)
  return {'a': (a, named(form.a), True), 'b': (b, named(form.b), True)}


def _size(leaf: Any, form: Form, letters: str) -> int:
  """The product of some dimensions of a weight."""
  sizes = leaf.shape[len(leaf.shape) - len(form.letters) :]
  by_letter = dict(zip(form.letters, sizes, strict=True))
  return math.prod(by_letter[x] for x in letters)
