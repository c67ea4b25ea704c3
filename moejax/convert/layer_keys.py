"""Keys that vary by layer: which layers are dense, which have a window."""

import dataclasses
from collections.abc import Callable
from typing import Any

from moejax.convert.keys import KeyMap, Keys, want
from moejax.core import errors

SLIDING, FULL = 'sliding_attention', 'full_attention'


@dataclasses.dataclass(frozen=True)
class DenseLayers(KeyMap):
  """Their keys that say which layers are dense and which have experts.

  Ours are `first_dense` and `moe_every`: dense layers first, then groups of
  layers of which the last one has experts.

  Attributes:
    is_sparse: whether layer number i has experts, from their config and i.
    written: their keys, from the kind ('dense' or 'moe') of every layer.
    names: the keys of theirs that are read.
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
    layers = [i for i, has_experts in enumerate(sparse) if not has_experts]
    raise errors.InputError(
      f'config.json has experts in all layers but {layers}: moejax has dense '
      'layers first, and then every n-th with experts'
    )

  def write(self, ours: Keys) -> dict[str, Any]:
    return self.written(ours['kinds'])


QWEN_LAYERS = DenseLayers(
  lambda theirs, i: (
    i not in (theirs['mlp_only_layers'] or ())
    and (i + 1) % want(theirs, 'decoder_sparse_step') == 0
  ),
  lambda kinds: {
    'mlp_only_layers': [i for i, kind in enumerate(kinds) if kind == 'dense'],
    'decoder_sparse_step': 1,
  },
  ('mlp_only_layers', 'decoder_sparse_step'),
)


def _first(kinds: tuple[str, ...]) -> int:
  """Number of the first layer with experts; 0 if no layer has any."""
  return kinds.index('moe') if 'moe' in kinds else 0


FIRST_DENSE = DenseLayers(
  lambda theirs, i: i >= want(theirs, 'first_k_dense_replace'),
  lambda kinds: {'first_k_dense_replace': _first(kinds)},
  ('first_k_dense_replace',),
)
DEEPSEEK_LAYERS = DenseLayers(
  lambda theirs, i: (
    i >= want(theirs, 'first_k_dense_replace')
    and i % want(theirs, 'moe_layer_freq') == 0
  ),
  lambda kinds: {
    'first_k_dense_replace': _first(kinds),
    'moe_layer_freq': 1,
  },
  ('first_k_dense_replace', 'moe_layer_freq'),
)


def _is_sparse_by_type(theirs: Keys, layer: int) -> bool:
  types, count = theirs['mlp_layer_types'], theirs['num_hidden_layers']
  if types is None:
    return layer > 0
  if len(types) != count or set(types) - {'dense', 'sparse'}:
    raise errors.InputError(
      f'config.json has mlp_layer_types={types}; it must be dense or sparse '
      f'for each of num_hidden_layers={count}'
    )
  return types[layer] == 'sparse'


BY_TYPE = DenseLayers(
  _is_sparse_by_type,
  lambda kinds: {
    'mlp_layer_types': ['sparse' if k == 'moe' else 'dense' for k in kinds],
    # The key of the other GLM models; transformers does not read it here.
    'first_k_dense_replace': _first(kinds),
  },
  ('mlp_layer_types',),
)


def _is_sparse_in_ernie(theirs: Keys, layer: int) -> bool:
  end = want(theirs, 'moe_layer_end_index')
  end = theirs['num_hidden_layers'] - 1 if end == -1 else end
  return (
    want(theirs, 'moe_layer_start_index') <= layer <= end
    and (layer + 1) % want(theirs, 'moe_layer_interval') == 0
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
  _is_sparse_in_ernie,
  _to_ernie,
  ('moe_layer_start_index', 'moe_layer_end_index', 'moe_layer_interval'),
)


@dataclasses.dataclass(frozen=True)
class Windows(KeyMap):
  """Sliding-window attention: one width of the window, in all or some layers.

  Ours is `windows`: the widths of one period of layers, 0 for full attention.

  Attributes:
    slides: whether layer number i has a window if `layer_types` is null, from
      their config and i.
    by_layer: whether the family has `layer_types`, a type for every layer.
    flag: whether layers have windows only if `use_sliding_window` is true.
    first: the key of a layer's number that `slides` reads; '' if it reads none.
  """

  slides: Callable[[Keys, int], bool]
  by_layer: bool = True
  flag: bool = False
  first: str = ''

  @property
  def names(self) -> tuple[str, ...]:
    keys: tuple[str, ...] = ('sliding_window', self.first)
    keys += ('layer_types',) if self.by_layer else ()
    keys += ('use_sliding_window',) if self.flag else ()
    return tuple(filter(None, keys))

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
    windows = [width if has_window else 0 for has_window in slides]
    # The shortest period, which all layers repeat.
    for period in range(1, count + 1):
      repeated = windows[:period] * count
      if repeated[:count] == windows:
        break
    return {'windows': windows[:period] if any(windows) else []}

  def _by_type(self, types: list[str], count: int) -> list[bool]:
    other = sorted(set(types) - {SLIDING, FULL})
    if len(types) != count or other:
      named = f', {", ".join(other)} among them' if other else ''
      raise errors.InputError(
        f'config.json has {len(types)} layer_types{named}, for '
        f'num_hidden_layers={count}; moejax has {SLIDING} and {FULL}'
      )
    return [layer_type == SLIDING for layer_type in types]

  def write(self, ours: Keys) -> dict[str, Any]:
    windows, count = ours['windows'] or [0], ours['num_layers']
    by_layer = [windows[i % len(windows)] for i in range(count)]
    width = max(by_layer) or None
    theirs: dict[str, Any] = {'sliding_window': width}
    if self.by_layer:
      theirs['layer_types'] = [SLIDING if w else FULL for w in by_layer]
    if self.flag:
      theirs['use_sliding_window'] = width is not None
    if self.first:
      # layer_types says which layers have a window, so this key is not used.
      theirs[self.first] = count
    return theirs


def every(theirs: Keys, layer: int) -> bool:
  """All layers have a window."""
  del theirs, layer
  return True


def upper(theirs: Keys, layer: int) -> bool:
  """Layers from number `max_window_layers` on have a window."""
  return layer >= want(theirs, 'max_window_layers')


def _even(theirs: Keys, layer: int) -> bool:
  del theirs
  return layer % 2 == 0


ALL_LAYERS = Windows(every, by_layer=False)
EVERY_OTHER = Windows(_even)
UPPER_LAYERS = Windows(upper, flag=True, first='max_window_layers')
