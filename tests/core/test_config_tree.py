"""Dataclasses to ConfigDict and back, and single keys set from text."""

import dataclasses
import itertools
import json
import types

import ml_collections
import pytest

from moejax import config
from moejax.core import config_tree, errors, fields
from moejax.moe.routers import ROUTERS


@dataclasses.dataclass(frozen=True)
class Fast:
  speed: float = 2.0


@dataclasses.dataclass(frozen=True)
class Safe:
  depth: int = 3
  strict: bool = False

  def __post_init__(self):
    if self.depth > 9:
      raise errors.InputError(f'depth={self.depth} is more than 9')


TABLE = types.MappingProxyType({'fast': Fast, 'safe': Safe})


@dataclasses.dataclass(frozen=True)
class Inner:
  size: int = 4
  name: str = 'a'


@dataclasses.dataclass(frozen=True)
class Outer:
  count: int = 1
  rate: float = 0.5
  on: bool = True
  clip: float | None = None
  limit: int | None = 7
  label: str | None = None
  steps: tuple[float, ...] = (0.8, 0.9)
  words: tuple[str, ...] = ()
  inner: Inner = Inner()
  method: object = fields.choice(TABLE, Safe())
  parts: tuple[object, ...] = fields.choices(TABLE, (Fast(),))
  dtype: str = fields.named(('float32', 'bfloat16'), 'float32')


OTHER = Outer(
  count=2,
  rate=1e-9,
  on=False,
  clip=1.5,
  limit=None,
  label='x y',
  steps=(),
  words=('p', 'q'),
  inner=Inner(size=5, name='b'),
  method=Fast(speed=3.0),
  parts=(Fast(speed=0.1), Safe(depth=1, strict=True)),
  dtype='bfloat16',
)

BOTH = pytest.mark.parametrize('obj', [Outer(), OTHER], ids=['new', 'changed'])


@BOTH
def test_config_dict_round_trip(obj):
  tree = config_tree.to_config_dict(obj)
  assert isinstance(tree, ml_collections.ConfigDict)
  assert config_tree.from_config_dict(Outer, tree) == obj


@BOTH
def test_json_round_trip(obj):
  for sort in (False, True):
    text = json.dumps(config_tree.to_dict(obj), sort_keys=sort)
    back = config_tree.from_config_dict(Outer, json.loads(text))
    assert back == obj


def test_every_key_of_the_tree_can_be_set():
  """A locked ConfigDict refuses keys that are not there, and None's types."""
  tree = config_tree.to_config_dict(Outer())
  tree.count = 3
  tree.rate = 2  # an int where a float is
  tree.clip = 0.25  # None before
  tree.label = 'set'
  tree.limit = None
  tree.steps = (0.1,)
  tree.inner.size = 9
  tree.method.depth = 2
  tree.parts.fast.speed = 7.0
  got = config_tree.from_config_dict(Outer, tree)
  assert got == Outer(
    count=3,
    rate=2.0,
    clip=0.25,
    label='set',
    limit=None,
    steps=(0.1,),
    inner=Inner(size=9),
    method=Safe(depth=2),
    parts=(Fast(speed=7.0),),
  )
  assert type(got.rate) is float


def test_a_choice_node_given_whole_starts_from_the_named_defaults():
  tree = config_tree.to_config_dict(Outer())
  tree.method = {'name': 'fast'}
  tree.parts = {'safe': {'depth': 5}}
  got = config_tree.from_config_dict(Outer, tree)
  assert got.method == Fast()
  assert got.parts == (Safe(depth=5),)


@dataclasses.dataclass(frozen=True)
class Nested:
  inner: Inner = Inner(size=6)
  method: object = fields.choice(TABLE, Safe(depth=7))


@dataclasses.dataclass(frozen=True)
class Whole:
  nested: Nested = Nested(method=Safe(depth=8))


@pytest.mark.parametrize(
  ('cls', 'node', 'path', 'text'),
  [
    (Nested, {'method': {'strict': True}}, 'method.strict', 'true'),
    (Nested, {'inner': {'name': 'b'}}, 'inner.name', 'b'),
    (
      Whole,
      {'nested': {'method': {'strict': True}}},
      'nested.method.strict',
      'true',
    ),
  ],
)
def test_a_node_without_a_name_changes_what_a_flag_changes(
  cls, node, path, text
):
  got = config_tree.from_config_dict(cls, node)
  assert got == config_tree.override(cls(), path, text)
  assert got != cls()


def test_a_node_with_a_name_has_the_defaults_of_its_class():
  node = {'method': {'name': 'safe', 'strict': True}}
  got = config_tree.from_config_dict(Nested, node)
  assert got.method == Safe(strict=True)


def _as_text(value):
  if isinstance(value, list):
    return ','.join(map(str, value))
  return str(value)


def test_every_key_of_a_run_set_to_its_own_text_changes_nothing():
  run = config.Run()
  flat = config_tree.flatten(run)
  assert len(flat) > 50
  for key, value in flat.items():
    assert config_tree.override(run, key, _as_text(value)) == run, key


@BOTH
def test_own_text_with_every_kind_of_field(obj):
  for key, value in config_tree.flatten(obj).items():
    assert config_tree.override(obj, key, _as_text(value)) == obj, key


@pytest.mark.parametrize(
  ('key', 'text', 'change'),
  [
    ('count', '5', {'count': 5}),
    ('rate', '3e-4', {'rate': 3e-4}),
    ('rate', '3', {'rate': 3.0}),
    ('on', 'False', {'on': False}),
    ('on', '0', {'on': False}),
    ('clip', '2', {'clip': 2.0}),
    ('limit', 'none', {'limit': None}),
    ('limit', 'None', {'limit': None}),
    ('label', 'none such', {'label': 'none such'}),
    ('steps', '0.5', {'steps': (0.5,)}),
    ('steps', '(0.5, 0.75)', {'steps': (0.5, 0.75)}),
    ('steps', '1,2', {'steps': (1.0, 2.0)}),
    ('steps', '', {'steps': ()}),
    ('words', 'a,b', {'words': ('a', 'b')}),
    ('inner.size', '8', {'inner': Inner(size=8)}),
    ('method.strict', 'true', {'method': Safe(strict=True)}),
    ('parts.fast.speed', '4', {'parts': (Fast(4.0),)}),
    ('dtype', 'bfloat16', {'dtype': 'bfloat16'}),
  ],
)
def test_override(key, text, change):
  got = config_tree.override(Outer(), key, text)
  assert got == dataclasses.replace(Outer(), **change)
  for name, value in change.items():
    assert type(getattr(got, name)) is type(value)


def test_another_name_resets_the_choice_and_the_same_name_keeps_it():
  changed = config_tree.override(Outer(), 'method.depth', '5')
  assert config_tree.override(changed, 'method.name', 'fast').method == Fast()
  assert config_tree.override(changed, 'method', 'fast').method == Fast()
  assert config_tree.override(changed, 'method.name', 'safe').method == Safe(5)
  there_and_back = changed
  for name in ('fast', 'safe'):
    there_and_back = config_tree.override(there_and_back, 'method.name', name)
  assert there_and_back.method == Safe()


def test_router_name_resets_the_node_in_a_whole_run():
  run = config_tree.override(config.Run(), 'model.moe.router.k', '1')
  run = config_tree.override(run, 'model.moe.router.name', 'gshard')
  flat = config_tree.flatten(run)
  assert flat['model.moe.router.name'] == 'gshard'
  assert 'model.moe.router.k' not in flat


def test_choices_go_on_and_off():
  assert config_tree.override(Outer(), 'parts.fast', 'off').parts == ()
  assert config_tree.override(Outer(), 'parts.safe', 'on').parts == (
    Fast(),
    Safe(),
  )
  assert config_tree.override(Outer(), 'parts.safe', 'off') == Outer()
  # What is on keeps its keys.
  assert config_tree.override(OTHER, 'parts.safe', 'on') == OTHER
  # A key of one that is off puts it on.
  got = config_tree.override(Outer(), 'parts.safe.depth', '2')
  assert got.parts == (Fast(), Safe(2))
  with pytest.raises(
    errors.InputError, match=r"parts.fast is on or off, not '1"
  ):
    config_tree.override(Outer(), 'parts.fast', '1')


def test_choices_stand_in_the_order_of_the_table():
  """Whatever the order of flags, so that sums over them are bit-equal."""
  only_safe = config_tree.override(Outer(parts=()), 'parts.safe', 'on')
  assert config_tree.override(only_safe, 'parts.fast', 'on').parts == (
    Fast(),
    Safe(),
  )
  tree = {'parts': {'safe': {}, 'fast': {}}}
  assert config_tree.from_config_dict(Outer, tree).parts == (Fast(), Safe())


@pytest.mark.parametrize(
  ('key', 'text', 'message'),
  [
    ('cuont', '1', "unknown config key 'cuont'; did you mean 'count'? known"),
    ('inner.szie', '1', "unknown config key 'inner.szie'; did you mean 'inner"),
    ('method.dpth', '1', "'method.dpth'; did you mean 'method.depth'?"),
    (
      'method.speed',
      '2',
      'method.speed=2 with method=safe, which has no such key: set method.name'
      ' to fast, or leave the key out',
    ),
    ('parts.fast.sped', '1', "did you mean 'parts.fast.speed'?"),
    ('parts.fats', 'on', "unknown parts 'fats'; did you mean 'fast'? known ar"),
    (
      'method.name',
      'fsat',
      "'fsat'; did you mean 'fast'? known are: fast, saf",
    ),
    ('method', 'zzz', "unknown method 'zzz'; known are: fast, safe"),
    ('dtype', 'flaot32', "'flaot32'; did you mean 'float32'? known are: bfloa"),
    ('count', '1.5', "config key 'count' wants an int, not '1.5'"),
    ('rate', 'high', "config key 'rate' wants a float, not 'high'"),
    ('on', 'yes', "config key 'on' is true or false: 'yes'"),
    ('count', 'none', "config key 'count' wants an int, not 'none'"),
    ('steps', '0.1,x', "config key 'steps' wants a float, not 'x'"),
    ('inner', '3', "config key 'inner' is a group of keys, not '3': set one"),
    (
      'parts',
      'fast',
      'parts=fast: each of its parts is on or off by itself; set parts.fast=on',
    ),
    ('parts', 'fsat', "unknown parts 'fsat'; did you mean 'fast'?"),
    ('count.more', '1', "unknown config key 'count.more'; did you mean 'count"),
    ('method.depth', '10', 'depth=10 is more than 9'),
  ],
)
def test_bad_text_is_one_line_that_names_key_and_fix(key, text, message):
  with pytest.raises(errors.InputError) as error:
    config_tree.override(Outer(), key, text)
  assert message in str(error.value)
  assert '\n' not in str(error.value)
  assert key.split('.')[0] in str(error.value)


@pytest.mark.parametrize(
  ('tree', 'message'),
  [
    ({'count': 1.5}, "config key 'count' wants an int, not 1.5"),
    ({'count': True}, "config key 'count' wants an int, not True"),
    ({'on': 1}, "config key 'on' wants a bool, not 1"),
    ({'rate': '1'}, "config key 'rate' wants a float, not '1'"),
    ({'rate': None}, "config key 'rate' wants a float, not None"),
    ({'clip': 'x'}, "config key 'clip' wants a float, not 'x'"),
    (
      {'steps': 3},
      "config key 'steps' wants a list of float, such as 1,2, not",
    ),
    ({'steps': ['x']}, "config key 'steps' wants a float, not 'x'"),
    ({'inner': 3}, "config key 'inner' is a group of keys, not 3"),
    ({'inner': {'size': 'x'}}, "config key 'inner.size' wants an int, not 'x'"),
    ({'inner': {'siez': 1}}, "unknown config key 'inner.siez'; did you mean"),
    ({'method': {'name': 'slow'}}, "unknown method 'slow'; known are: fast, s"),
    ({'method': {'speed': 1}}, "unknown config key 'method.speed'"),
    ({'method': {'depth': 12}}, 'method: depth=12 is more than 9'),
    ({'parts': {'fst': {}}}, "unknown parts 'fst'; did you mean 'fast'?"),
    ({'parts': {'fast': 1}}, "config key 'parts.fast' is a group of keys"),
    ({'dtype': 'int8'}, "unknown dtype 'int8'; known are: bfloat16, float32"),
    ({'counts': 1}, "unknown config key 'counts'; did you mean 'count'?"),
  ],
)
def test_a_bad_tree_is_one_line_that_names_key_and_fix(tree, message):
  with pytest.raises(errors.InputError) as error:
    config_tree.from_config_dict(Outer, tree)
  assert message in str(error.value)
  assert '\n' not in str(error.value)


def test_an_int_is_a_float_where_a_float_is_wanted():
  got = config_tree.from_config_dict(
    Outer, {'rate': 2, 'clip': 1, 'steps': [1, 2]}
  )
  assert (got.rate, got.clip, got.steps) == (2.0, 1.0, (1.0, 2.0))
  assert {type(x) for x in (got.rate, got.clip, *got.steps)} == {float}


def test_absent_keys_keep_their_defaults():
  got = config_tree.from_config_dict(Outer, {'inner': {'size': 1}})
  assert got == Outer(inner=Inner(size=1))


def test_differences_are_the_keys_that_differ_with_both_values():
  assert config_tree.differences(Outer(), Outer()) == {}
  new = config_tree.override(Outer(), 'inner.size', '1')
  new = config_tree.override(new, 'method', 'fast')
  new = config_tree.override(new, 'parts.fast', 'off')
  assert config_tree.differences(Outer(), new) == {
    'inner.size': (4, 1),
    'method.depth': (3, None),
    'method.name': ('safe', 'fast'),
    'method.speed': (None, 2.0),
    'method.strict': (False, None),
    'parts.fast.speed': (2.0, None),
  }


def test_a_config_file_may_set_only_the_name():
  """The default's own keys, left behind unchanged, are no error."""
  tree = config_tree.to_config_dict(config.Run())
  tree.model.moe.router.name = 'gshard'
  run = config_tree.from_config_dict(config.Run, tree)
  assert type(run.model.moe.router) is ROUTERS['gshard']
  tree.model.moe.router.k = 5
  with pytest.raises(errors.InputError, match="'model.moe.router.k'"):
    config_tree.from_config_dict(config.Run, tree)


@pytest.mark.parametrize(
  ('flags', 'want'),
  [
    (
      [('method.speed', '3'), ('method.name', 'fast'), ('count', '4')],
      Outer(count=4, method=Fast(3.0)),
    ),
    (
      [('method.depth', '1'), ('method', 'safe'), ('method.strict', 'true')],
      Outer(method=Safe(1, strict=True)),
    ),
    (
      [('parts.safe.depth', '2'), ('parts.safe', 'on'), ('parts.fast', 'off')],
      Outer(parts=(Safe(2),)),
    ),
    ([('count', '4'), ('count', '4')], Outer(count=4)),
  ],
)
def test_the_order_of_flags_does_not_matter(flags, want):
  for order in itertools.permutations(flags):
    assert config_tree.override_all(Outer(), order) == want


@dataclasses.dataclass(frozen=True)
class Range:
  low: int = 1
  high: int = 2

  def __post_init__(self):
    if self.low >= self.high:
      raise errors.InputError(f'low={self.low} must be below high={self.high}')


@dataclasses.dataclass(frozen=True)
class HasRange:
  range: Range = Range()


def test_keys_that_fit_together_are_set_in_any_order():
  flags = [('range.low', '5'), ('range.high', '6')]
  for order in (flags, flags[::-1]):
    assert config_tree.override_all(HasRange(), order) == HasRange(Range(5, 6))
  with pytest.raises(errors.InputError) as error:
    config_tree.override_all(HasRange(), flags[:1])
  assert str(error.value) == 'range: low=5 must be below high=2'


@pytest.mark.parametrize(
  ('flags', 'message'),
  [
    (
      [('count', '3'), ('count', '4')],
      'count=3 and count=4 contradict each other; give one',
    ),
    (
      [('method', 'fast'), ('method.name', 'safe')],
      'method=fast and method.name=safe contradict each other; give one',
    ),
    (
      [('parts.safe.depth', '2'), ('parts.safe', 'off')],
      'parts.safe=off and parts.safe.depth=2 contradict each other; give one',
    ),
    (
      [('method.depht', '2'), ('method.name', 'safe')],
      "method.depht=2 with method=safe: unknown key 'depht'; did you mean 'de",
    ),
    (
      [('method.depth', '2'), ('method.name', 'fast')],
      "method.depth=2 with method=fast: unknown key 'depth'; known are: speed",
    ),
  ],
)
def test_flags_that_contradict_are_one_line_that_names_both(flags, message):
  for order in itertools.permutations(flags):
    with pytest.raises(errors.InputError) as error:
      config_tree.override_all(Outer(), order)
    # Two values of one key are named in the order of the flags.
    if order == tuple(flags) or flags[0][0] != flags[1][0]:
      assert str(error.value).startswith(message)
    for _, text in flags:
      assert f'={text}' in str(error.value)


@pytest.mark.parametrize('text', ['inf', '-inf', 'nan'])
def test_numbers_must_be_finite(text):
  with pytest.raises(errors.InputError, match="'opt.clip_norm' must be finite"):
    config_tree.override(config.Run(), 'opt.clip_norm', text)
