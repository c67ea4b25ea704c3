"""Weights in int8 or float8: a quarter of the memory, for trained models.

  values = round(W / scale)      one scale for each output of a matrix
  W'     = values * scale        formed where a layer is computed, in float32

A scale is the largest |W| among the weights of one output over the largest
number of the type, 127 or 448. So W' differs from W by at most half a step of
the type:

  int8         scale / 2
  float8_e4m3  |W| / 16, or scale / 1024 if that is more (3 bits behind the
               leading one; below 2^-6 numbers are 2^-9 apart)

Activations and products are those of the model.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
from flax import nnx

from moejax.core import trees
from moejax.model import build, formed
from moejax.model.adapted import Form
from moejax.model.decoder import Decoder
from moejax.parallel import rules

FULL = 'full'
# By name, the type and its largest number.
TYPES: dict[str, tuple[Any, float]] = {
  'float8_e4m3': (jnp.float8_e4m3fn, 448.0),
  'int8': (jnp.int8, 127.0),
}
NAMES = (FULL, *TYPES)


@flax.struct.dataclass
class Rounded(formed.Formed):
  """A rounded weight; layers may stand in front of both.

  Attributes:
    values: the rounded numbers, of the shape of the weight; in trees of shapes
      and of shardings, those of the numbers. So is the scale.
    scale: float32, 1 in the dimensions that are summed over.
  """

  values: Any
  scale: Any

  def array(self) -> jax.Array:
    return self.values.astype(jnp.float32) * self.scale


def rounded(w: jax.Array, name: str, dims: tuple[int, ...]) -> Rounded:
  """A weight in one of TYPES.

  Args:
    w: the weight.
    name: of the type.
    dims: its dimensions that a product sums over, which share a scale.
  """
  dtype, largest = TYPES[name]
  scale = jnp.max(jnp.abs(w), axis=dims, keepdims=True) / largest
  scale = jnp.where(scale > 0, scale, 1).astype(jnp.float32)
  # Division may round the largest number up, beyond the largest of the type.
  values = jnp.clip(w / scale, -largest, largest)
  if jnp.issubdtype(dtype, jnp.integer):
    values = jnp.round(values)
  return Rounded(values.astype(dtype), scale)


@dataclasses.dataclass(frozen=True, eq=False)
class RoundedModel(build.Model):
  """A model some of whose weights are `Rounded`.

  Attributes:
    base: the model with full weights.
    dims: by path of a weight that is rounded, the dimensions summed over.
    name: of the type.
  """

  base: build.Model
  dims: dict[str, tuple[int, ...]]
  name: str

  def bind(self, weights: build.Weights) -> Decoder:
    """The decoder with these weights, of `round`."""
    return nnx.merge(self.graph, formed.as_state(weights))

  def round(self, weights: build.Weights) -> build.Weights:
    """Full weights of `base`, rounded; one after the other, to save memory."""
    places = trees.leaves(self.shardings)
    made = dict(trees.leaves(weights))
    for path, dims in self.dims.items():
      place = Rounded(places[f'{path}/values'], places[f'{path}/scale'])
      run = jax.jit(rounded, static_argnums=(1, 2), out_shardings=place)
      made[path] = run(made[path], self.name, dims)
    return trees.nest(made)

  @property
  def in_words(self) -> str:
    """A line on what the weights take.

    Example: 'weights in int8: 2.6 MB in place of 9.7 MB'
    """
    now, full = (trees.num_bytes(x.shapes) for x in (self, self.base))
    return (
      f'weights in {self.name}: {now / 1e6:,.1f} MB in place of '
      f'{full / 1e6:,.1f} MB'
    )


def of(base: build.Model, name: str, forms: Mapping[str, Form]) -> RoundedModel:
  """The model whose weights of some paths are rounded.

  Args:
    base: the model.
    name: one of TYPES.
    forms: by path, the forms of the weights to round.

  """
  dtype, _ = TYPES[name]
  shapes, axes = trees.leaves(base.shapes), dict(base.axes)
  places = trees.leaves(base.shardings)
  dims = {path: _summed(shapes[path], form) for path, form in forms.items()}
  for path, own in dims.items():
    whole = shapes[path]
    pick = lambda items, one, own=own: tuple(
      one if dim in own else item for dim, item in enumerate(items)
    )
    scale = jax.ShapeDtypeStruct(pick(whole.shape, 1), jnp.float32)
    names = {'scale': pick(axes[path], 'unsharded')}
    place = rules.shardings(names, {'scale': scale}, base.mesh)['scale']
    values = jax.ShapeDtypeStruct(whole.shape, dtype)
    shapes[path] = Rounded(values, scale)
    places[path] = Rounded(places[path], place)
  return RoundedModel(
    base.config,
    base.mesh,
    base.graph,
    shapes=trees.nest(shapes),
    axes=axes,
    decays=base.decays,
    shardings=trees.nest(places),
    base=base,
    dims=dims,
    name=name,
  )


def _summed(leaf: Any, form: Form) -> tuple[int, ...]:
  """The dimensions of a weight that a product sums over."""
  layers = len(leaf.shape) - len(form.letters)
  return tuple(layers + form.letters.index(x) for x in form.inputs)
