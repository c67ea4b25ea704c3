"""Keys that say what each layer is: with experts or dense, how far it sees."""

import dataclasses
from collections.abc import Callable
from typing import Any

from moejax.convert.keys import KeyMap, Keys, want
from moejax.core import errors

SLIDING, FULL = 'sliding_attention', 'full_attention'


@dataclasses.dataclass(frozen=True)
class DenseLayers(KeyMap):
  """Which layers have no experts.

  Attributes:
    is_sparse: whether a layer of a config has them, by its number.
    written: their keys from the kinds of all layers.
    names: the keys that it reads.
  """

  is_sparse: Callable[[Keys, int], bool]
  written: Callable[[tuple[str, ...]], dict[str, Any]]
  names: tuple[str, ...] = ()

  def read(self, theirs: Keys) -> dict[str, Any]:
    count = theirs['num_hidden_layers']
    sparse = [self.is_sparse(theirs, i) for i in range(count)]
    if not any(sparse):
      raise errors.InputError('config.json has no layer with experts')
    first = sparse.index(True)
    for every in range(1, count + 1):
      dense = first - every + 1
      group = [False] * (every - 1) + [True]
      if (
        dense >= 0
        and [False] * dense + group * ((count - dense) // every) == sparse
      ):
        return {'first_dense': dense, 'moe_every': every}
    layers = [i for i, one in enumerate(sparse) if not one]
    raise errors.InputError(
      f'config.json has experts in all layers but {layers}: moejax has dense '
      'layers first, and then every n-th with experts'
    )

  def write(self, ours: Keys) -> dict[str, Any]:
    return self.written(ours['kinds'])


QWEN_LAYERS = DenseLayers(
  lambda of, i: (
    i not in (of['mlp_only_layers'] or ())
    and (i + 1) % want(of, 'decoder_sparse_step') == 0
  ),
  lambda kinds: {
    'mlp_only_layers': [i for i, kind in enumerate(kinds) if kind == 'dense'],
    'decoder_sparse_step': 1,
  },
  ('mlp_only_layers', 'decoder_sparse_step'),
)


def _first(kinds: tuple[str, ...]) -> int:
  """The first layer with experts."""
  return kinds.index('moe') if 'moe' in kinds else 0


FIRST_DENSE = DenseLayers(
  lambda of, i: i >= want(of, 'first_k_dense_replace'),
  lambda kinds: {'first_k_dense_replace': _first(kinds)},
  ('first_k_dense_replace',),
)
DEEPSEEK_LAYERS = DenseLayers(
  lambda of, i: (
    i >= want(of, 'first_k_dense_replace')
    and i % want(of, 'moe_layer_freq') == 0
  ),
  lambda kinds: {
    'first_k_dense_replace': _first(kinds),
    'moe_layer_freq': 1,
  },
  ('first_k_dense_replace', 'moe_layer_freq'),
)


def _typed(of: Keys, layer: int) -> bool:
  types = of['mlp_layer_types']
  if types is None:
    return layer > 0
  if len(types) != of['num_hidden_layers'] or set(types) - {'dense', 'sparse'}:
    raise errors.InputError(
      f'config.json has mlp_layer_types={types}; it must be dense or sparse '
      f'for each of num_hidden_layers={of["num_hidden_layers"]}'
    )
  return types[layer] == 'sparse'


BY_TYPE = DenseLayers(
  _typed,
  lambda kinds: {
    'mlp_layer_types': ['sparse' if k == 'moe' else 'dense' for k in kinds],
    # Key that another `KeyMap` reads.
    'first_k_dense_replace': _first(kinds),
  },
  ('mlp_layer_types',),
)


def _of_ernie(of: Keys, layer: int) -> bool:
  end = want(of, 'moe_layer_end_index')
  end = of['num_hidden_layers'] - 1 if end == -1 else end
  return (
    want(of, 'moe_layer_start_index') <= layer <= end
    and (layer + 1) % want(of, 'moe_layer_interval') == 0
  )


def _to_ernie(kinds: tuple[str, ...]) -> dict[str, Any]:
  sparse = [i for i, kind in enumerate(kinds) if kind == 'moe'] or [0]
  first, second = (sparse + [sparse[0] + 1])[:2]
  return {
    'moe_layer_start_index': first,
    'moe_layer_end_index': sparse[-1],
    'moe_layer_interval': second - first,
  }


ERNIE_LAYERS = DenseLayers(
  _of_ernie,
  _to_ernie,
  ('moe_layer_start_index', 'moe_layer_end_index', 'moe_layer_interval'),
)


@dataclasses.dataclass(frozen=True)
class Windows(KeyMap):
  """How far back layers see: one width, in all layers or in some.

  Attributes:
    slides: whether a layer of a config has a window where nothing is said of
      single layers.
    by_layer: whether `layer_types` may say it of single layers.
    flag: whether there are none unless `use_sliding_window`.
    first: the key of a layer's number that `slides` goes by, or ''.
  """

  slides: Callable[[Keys, int], bool]
  by_layer: bool = True
  flag: bool = False
  first: str = ''

  @property
  def names(self) -> tuple[str, ...]:
    found: tuple[str, ...] = ('sliding_window', self.first)
    found += ('layer_types',) if self.by_layer else ()
    found += ('use_sliding_window',) if self.flag else ()
    return tuple(filter(None, found))

  def read(self, theirs: Keys) -> dict[str, Any]:
    width, count = theirs['sliding_window'], theirs['num_hidden_layers']
    if self.flag and not want(theirs, 'use_sliding_window'):
      width = None
    if self.flag and self.first:
      want(theirs, self.first)
    types = theirs['layer_types'] if self.by_layer else None
    if types is None:
      slides = [
        width is not None and self.slides(theirs, i) for i in range(count)
      ]
    else:
      slides = self._by_type(types, count)
    if any(slides) and (not isinstance(width, int) or width < 1):
      raise errors.InputError(
        f'config.json has layers with a window, and sliding_window={width}; it '
        'must be 1 or more'
      )
    windows = [width if one else 0 for one in slides]
    for period in range(1, count + 1):
      again = windows[:period] * count
      if again[:count] == windows:
        break
    found = windows[:period]
    return {'windows': found if any(found) else []}

  def _by_type(self, types: list[str], count: int) -> list[bool]:
    other = sorted(set(types) - {SLIDING, FULL})
    if len(types) != count or other:
      named = f', {", ".join(other)} among them' if other else ''
      raise errors.InputError(
        f'config.json has {len(types)} layer_types{named}, for '
        f'num_hidden_layers={count}; moejax has {SLIDING} and {FULL}'
      )
    return [one == SLIDING for one in types]

  def write(self, ours: Keys) -> dict[str, Any]:
    windows, count = ours['windows'] or [0], ours['num_layers']
    by_layer = [windows[i % len(windows)] for i in range(count)]
    width = max(by_layer) or None
    found = {'sliding_window': width}
    if self.by_layer:
      found['layer_types'] = [SLIDING if one else FULL for one in by_layer]
    if self.flag:
      found['use_sliding_window'] = width is not None
    if self.first:
      # Of a window in some layers; layer_types says in which.
      found[self.first] = count
    return found


def every(of: Keys, layer: int) -> bool:
  """All layers slide."""
  del of, layer
  return True


def upper(of: Keys, layer: int) -> bool:
  """Layers from `max_window_layers` on."""
  return layer >= want(of, 'max_window_layers')


def _even(of: Keys, layer: int) -> bool:
  del of
  return layer % 2 == 0


ALL_LAYERS = Windows(every, by_layer=False)
EVERY_OTHER = Windows(_even)
UPPER_LAYERS = Windows(upper, flag=True, first='max_window_layers')
