"""Parts of a model with learning rates of their own; frozen parts have none.

  opt.parts.encoder.weights=vision/encoder    all weights below that path
  opt.parts.encoder.lr_factor=0.1             a tenth of opt.peak_lr
  opt.parts.text.weights=embed_VD,moe,norm
  opt.parts.text.lr_factor=0                  frozen

A frozen weight keeps its value to the bit: it has no gradient, no weight decay
and no moments, and its router's biases stay. Its gradient counts as zero in the
norm that is clipped.
"""

import dataclasses
import fnmatch
from collections.abc import Iterable, Sequence
from typing import Any

from moejax.core import errors, fields, resume, trees
from moejax.model.build import Model


@dataclasses.dataclass(frozen=True)
class Part(fields.Checked):
  """Some weights of a model and their learning rate.

  Attributes:
    name: name of the part, which is its node in the config.
    weights: paths of weights, joined by commas. A path stands for all that is
      below it, and may have the wildcards * and ?, which match / too.
    lr_factor: by which `opt.peak_lr` and its schedule are multiplied.
  """

  name: str = fields.node_name()
  weights: str = resume.key(resume.RESULT, '')
  lr_factor: float = fields.number(
    1.0, at_least=0, at_most=10**6, note='0: frozen'
  )

  def has(self, path: str) -> bool:
    """Whether a weight belongs to the part."""
    return any(_matches(path, pattern) for pattern in self.patterns)

  @property
  def patterns(self) -> list[str]:
    """The paths in `weights`."""
    return [text.strip().strip('/') for text in self.weights.split(',')]


def _matches(path: str, pattern: str) -> bool:
  return (
    fnmatch.fnmatchcase(path, pattern)
    or fnmatch.fnmatchcase(path, f'{pattern}/*')
  )  # fmt: skip


def factors(parts: Sequence[Part], paths: Iterable[str]) -> dict[str, float]:
  """The factor of the learning rate of each weight; 1 outside of all parts.

  Args:
    parts: `opt.parts`.
    paths: the paths of all weights.

  Raises:
    InputError: a path of a part is of no weight, a weight is in two parts, or
      all weights are frozen.
  """
  listed = [*paths]
  for part in parts:
    for pattern in part.patterns:
      if not any(_matches(path, pattern) for path in listed):
        tops = ', '.join(dict.fromkeys(_top(path) for path in listed))
        raise errors.InputError(
          f'opt.parts.{part.name}.weights={part.weights!r}: the model has no '
          f'weight {pattern!r}; its weights are below {tops}'
        )
  found = {path: _factor(parts, path) for path in listed}
  if parts and not any(found.values()):
    raise errors.InputError(
      'opt.parts freezes all weights, so nothing would be trained: raise an '
      'lr_factor above 0, or leave a part out'
    )
  return found


def frozen(parts: Sequence[Part], paths: Iterable[str]) -> frozenset[str]:
  """The paths of frozen weights; errors as of `factors`."""
  return frozenset(p for p, f in factors(parts, paths).items() if not f)


def freeze(model: Model, parts: Sequence[Part]) -> Model:
  """The model, through whose frozen weights no gradient passes."""
  return dataclasses.replace(model, frozen=frozen(parts, model.decays))


def kept(model: Model, old: Any, new: Any) -> Any:
  """New weights, of which the frozen ones are the old ones."""
  if not model.frozen:
    return new
  choose = lambda path, new, old: old if path in model.frozen else new
  return trees.map_paths(choose, new, old)


def _factor(parts: Sequence[Part], path: str) -> float:
  own = [part for part in parts if part.has(path)]
  if len(own) > 1:
    raise errors.InputError(
      f'opt.parts.{own[0].name} and opt.parts.{own[1].name} both have the '
      f'weight {path}: give it to one of them'
    )
  return own[0].lr_factor if own else 1.0


def _top(path: str) -> str:
  """The first names of a path: vision/encoder/norm/scale -> vision/encoder."""
  return '/'.join(path.split('/')[: 2 if path.startswith('vision/') else 1])
