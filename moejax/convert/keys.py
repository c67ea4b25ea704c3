"""Between the keys of a config.json and those of ModelConfig.

Each part turns some of their keys into some of ours, and back:

  read(theirs)  {'hidden_size': 64}  ->  {'width': 64}
  write(ours)   {'width': 64, ...}   ->  {'hidden_size': 64}

Ours are flat, by their dotted path. What a family cannot say is not looked for
here: whoever writes a config reads it again, and compares.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, Protocol

from moejax.core import errors, table

Keys = Mapping[str, Any]
MISSING = object()


class Part(Protocol):
  """Some keys of a config."""

  def read(self, theirs: Keys) -> dict[str, Any]:
    """Ours of theirs; raises InputError for what we do not have."""

  def write(self, ours: Keys) -> dict[str, Any]:
    """Theirs of ours."""


@dataclasses.dataclass(frozen=True)
class Key:
  """One key that is the same in both but for its name.

  Attributes:
    theirs: its names, divided by '|': the first that is there is read, and all
      are written.
    ours: its dotted path.
    default: what a config that lacks it means, or a function of that config;
      without one it must be there.
    also: further paths of ours that it sets.
    null: our value for which they write null.
  """

  theirs: str
  ours: str
  default: Any = MISSING
  also: tuple[str, ...] = ()
  null: Any = MISSING

  def read(self, theirs: Keys) -> dict[str, Any]:
    for name in self.theirs.split('|'):
      if theirs.get(name) is not None:
        value = theirs[name]
        break
    else:
      value = self.default
      if isinstance(value, Callable):
        value = value(theirs)
      if value is MISSING:
        raise errors.InputError(
          f'config.json lacks {self.theirs.replace("|", " or ")}'
        )
    return dict.fromkeys((self.ours, *self.also), value)

  def write(self, ours: Keys) -> dict[str, Any]:
    value = ours.get(self.ours)
    value = None if value == self.null else value
    return dict.fromkeys(self.theirs.split('|'), value)


@dataclasses.dataclass(frozen=True)
class Ours:
  """What is so in every model of a family and has no key there."""

  path: str
  value: Any

  def read(self, theirs: Keys) -> dict[str, Any]:
    del theirs
    return {self.path: self.value}

  def write(self, ours: Keys) -> dict[str, Any]:
    del ours
    return {}


@dataclasses.dataclass(frozen=True)
class Only:
  """A key that must have one value, or be absent: we have no other."""

  theirs: str
  value: Any

  def read(self, theirs: Keys) -> dict[str, Any]:
    found = theirs.get(self.theirs, self.value)
    if found != self.value:
      raise errors.InputError(
        f'config.json has {self.theirs}={found!r}, but moejax has it with '
        f'{self.value!r} alone'
      )
    return {}

  def write(self, ours: Keys) -> dict[str, Any]:
    del ours
    return {self.theirs: self.value}


@dataclasses.dataclass(frozen=True)
class Derived:
  """One of ours that follows from their keys and is not written.

  Attributes:
    path: ours.
    of: its value from their config.
  """

  path: str
  of: Callable[[Keys], Any]

  def read(self, theirs: Keys) -> dict[str, Any]:
    return {self.path: self.of(theirs)}

  def write(self, ours: Keys) -> dict[str, Any]:
    del ours
    return {}


@dataclasses.dataclass(frozen=True)
class SharedWidth:
  """The width of all shared experts together, as so many of the routed ones'.

  Attributes:
    theirs: key of the width.
    expert: key of a routed expert's width.
  """

  theirs: str
  expert: str

  def read(self, theirs: Keys) -> dict[str, Any]:
    width, one = theirs[self.theirs], theirs[self.expert]
    if not width or width % one:
      raise errors.InputError(
        f'config.json has {self.theirs}={width}, which is no multiple of '
        f'{self.expert}={one}: moejax has whole shared experts alone'
      )
    return {'moe.num_shared': width // one}

  def write(self, ours: Keys) -> dict[str, Any]:
    return {self.theirs: ours['moe.num_shared'] * ours['moe.expert_width']}


@dataclasses.dataclass(frozen=True)
class DenseLayers:
  """Which layers have no experts.

  Attributes:
    is_sparse: whether a layer of a config has them, by its number.
    written: their keys from the kinds of all layers.
  """

  is_sparse: Callable[[Keys, int], bool]
  written: Callable[[tuple[str, ...]], dict[str, Any]]

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
    dense = [i for i, one in enumerate(sparse) if not one]
    raise errors.InputError(
      f'config.json has experts in all layers but {dense}: moejax has dense '
      'layers first, and then every n-th with experts'
    )

  def write(self, ours: Keys) -> dict[str, Any]:
    return self.written(ours['kinds'])


QWEN_LAYERS = DenseLayers(
  lambda of, i: (
    i not in (of.get('mlp_only_layers') or ())
    and (i + 1) % of.get('decoder_sparse_step', 1) == 0
  ),
  lambda kinds: {
    'mlp_only_layers': [i for i, kind in enumerate(kinds) if kind == 'dense'],
    'decoder_sparse_step': 1,
  },
)
DEEPSEEK_LAYERS = DenseLayers(
  lambda of, i: (
    i >= of.get('first_k_dense_replace', 0)
    and i % of.get('moe_layer_freq', 1) == 0
  ),
  lambda kinds: {
    'first_k_dense_replace': kinds.index('moe') if 'moe' in kinds else 0,
    'moe_layer_freq': 1,
  },
)


@dataclasses.dataclass(frozen=True)
class Windows:
  """How far back layers see: one width, in all layers or in some.

  Attributes:
    by_layer: whether `layer_types` says in which; else all.
  """

  by_layer: bool

  def read(self, theirs: Keys) -> dict[str, Any]:
    width, count = (
      theirs.get('sliding_window') or 0,
      theirs['num_hidden_layers'],
    )
    types = theirs.get('layer_types') if self.by_layer else None
    if types is None:
      types = ['sliding_attention'] * count
      if self.by_layer:
        types[1::2] = ['full_attention'] * (count // 2)
    windows = [width if one == 'sliding_attention' else 0 for one in types]
    for period in range(1, count + 1):
      again = windows[:period] * count
      if again[:count] == windows:
        break
    found = windows[:period]
    return {'windows': found if any(found) else []}

  def write(self, ours: Keys) -> dict[str, Any]:
    windows, count = ours['windows'] or [0], ours['num_layers']
    by_layer = [windows[i % len(windows)] for i in range(count)]
    found = {'sliding_window': max(by_layer) or None}
    if self.by_layer:
      found['layer_types'] = [
        'sliding_attention' if one else 'full_attention' for one in by_layer
      ]
    return found


# The keys of each kind of stretching: (theirs, ours, default).
LENGTH = ('original_max_position_embeddings', 'length', MISSING)
SCALINGS = {
  'default': ('none', ()),
  'linear': ('linear', (('factor', 'factor', MISSING),)),
  'llama3': (
    'llama3',
    (
      ('factor', 'factor', MISSING),
      ('low_freq_factor', 'low', MISSING),
      ('high_freq_factor', 'high', MISSING),
      LENGTH,
    ),
  ),
  'yarn': (
    'yarn',
    (
      ('factor', 'factor', MISSING),
      LENGTH,
      ('beta_fast', 'beta_fast', 32.0),
      ('beta_slow', 'beta_slow', 1.0),
      ('mscale', 'mscale', 0.0),
      ('mscale_all_dim', 'mscale_all', 0.0),
      ('truncate', 'whole', True),
    ),
  ),
}
WHOLE = ('length',)  # of ours, those that are no float


@dataclasses.dataclass(frozen=True)
class Rotary:
  """Rotary positions: `rope_theta` and `rope_scaling`, or `rope_parameters`.

  The first two are of transformers 4, the last of 5; all are written.

  Attributes:
    theta: what a config without it means.
    scores: whether `mscale_all_dim` multiplies scores, as with latent heads.
  """

  theta: float = 10_000.0
  scores: bool = False

  def read(self, theirs: Keys) -> dict[str, Any]:
    found = theirs.get('rope_scaling') or theirs.get('rope_parameters') or {}
    kind = found.get('rope_type', found.get('type', 'default'))
    name, known = table.lookup('rope_type of config.json', SCALINGS, kind)
    if found.get('mscale_all_dim') and not self.scores:
      raise errors.InputError(
        'config.json has rope_scaling.mscale_all_dim, which moejax has with '
        'latent heads alone'
      )
    if found.get('attention_factor') is not None:
      raise errors.InputError(
        'config.json has rope_scaling.attention_factor, which moejax derives '
        'from factor and mscale; leave it out if it is the same'
      )
    theta = found.get('rope_theta') or theirs.get('rope_theta') or self.theta
    share = found.get('partial_rotary_factor')
    share = share or theirs.get('partial_rotary_factor') or 1.0
    scaling = {'name': name}
    for their, our, default in known:
      value = found.get(their)
      value = default if value is None else value
      if value is MISSING:
        raise errors.InputError(f'config.json lacks rope_scaling.{their}')
      same = our in WHOLE or isinstance(value, bool)
      scaling[our] = value if same else float(value)
    return {
      'rope.base': float(theta),
      'rope.share': float(share),
      'rope.scaling': scaling,
    }

  def write(self, ours: Keys) -> dict[str, Any]:
    names = {ours: kind for kind, (ours, _) in SCALINGS.items()}
    kind = names[ours['rope.scaling.name']]
    scaling = {
      their: ours[f'rope.scaling.{our}'] for their, our, _ in SCALINGS[kind][1]
    }
    if not self.scores:
      scaling = {
        key: value
        for key, value in scaling.items()
        if not key.startswith('mscale')
      }
    theta, share = ours['rope.base'], ours['rope.share']
    both = {'rope_type': kind, 'rope_theta': theta, **scaling}
    found = {
      'rope_theta': theta,
      'rope_scaling': None if kind == 'default' else both | {'type': kind},
      'rope_parameters': both,
    }
    if share != 1:
      found['partial_rotary_factor'] = share
      both['partial_rotary_factor'] = share
    return found


@dataclasses.dataclass(frozen=True)
class GroupsOfV2:
  """DeepSeek-V2's `topk_method`: among all experts, or those of some groups."""

  def read(self, theirs: Keys) -> dict[str, Any]:
    method = theirs.get('topk_method', 'greedy')
    routers = {'greedy': 'top_k', 'group_limited_greedy': 'group_limited'}
    router = table.lookup('topk_method of config.json', routers, method)
    found = {'moe.router.name': router}
    if router == 'group_limited':
      found['moe.router.num_groups'] = theirs['n_group']
      found['moe.router.kept_groups'] = theirs['topk_group']
      found['moe.router.group_score'] = 'max'
    return found

  def write(self, ours: Keys) -> dict[str, Any]:
    limited = ours['moe.router.name'] == 'group_limited'
    return {
      'topk_method': 'group_limited_greedy' if limited else 'greedy',
      'n_group': ours.get('moe.router.num_groups', 1),
      'topk_group': ours.get('moe.router.kept_groups', 1),
    }
