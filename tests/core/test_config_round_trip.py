"""Any valid change of keys survives all the ways that a config is written."""

import dataclasses
import functools
import json
import math

import hypothesis
from helpers import config_text
from hypothesis import given
from hypothesis import strategies as st

from moejax import config
from moejax.core import bounds, config_build, config_tree, errors
from moejax.moe.routers import ROUTERS

RUN = config.Run()
ROUTER = 'model.moe.router'


def _numbers(hint, limits):
  """Numbers of a type, within the bounds that a field states."""
  low, high = limits.at_least, limits.at_most
  if hint is int:
    low = math.floor(limits.above) + 1 if low is None else math.ceil(low)
    high = math.ceil(limits.below) - 1 if high is None else math.floor(high)
    return st.integers(low, high)
  return st.floats(
    limits.above if low is None else low,
    limits.below if high is None else high,
    exclude_min=low is None,
    exclude_max=high is None,
  )


def _values(cls, field):
  """Values of a field, or None where the type alone does not say which fit."""
  hint, optional = config_build.hint_of(cls, field.name)
  limits = bounds.of(field)
  if 'named' in field.metadata:
    found = st.sampled_from(field.metadata['named'])
  elif hint is bool:
    found = st.booleans()
  elif hint in {int, float} and limits is not None:
    found = _numbers(hint, limits)
  elif hint == tuple[float, ...] and limits is not None:
    found = st.lists(_numbers(float, limits), max_size=3).map(tuple)
  else:
    return None
  return st.none() | found if optional else found


def _keys(obj, prefix=''):
  """(path, strategy) of every key that stands for itself alone."""
  for field in dataclasses.fields(obj):
    value, path = getattr(obj, field.name), prefix + field.name
    if 'choices' in field.metadata:
      names = config_tree.to_dict(obj)[field.name]
      for name, part in zip(names, value, strict=True):
        yield from _keys(part, f'{path}.{name}.')
    elif dataclasses.is_dataclass(value):
      yield from _keys(value, f'{path}.')
    elif (found := _values(type(obj), field)) is not None:
      yield path, found


@functools.cache
def keys_of(router):
  """The keys of a run with that router, each with its values."""
  return dict(_keys(config_tree.override(RUN, ROUTER, router)))


def _text(value):
  """What a flag says."""
  if isinstance(value, tuple):
    return ','.join(map(repr, value))
  return 'none' if value is None else str(value)


@st.composite
def _changes(draw):
  """Some keys, each with a value within its bounds, and a router."""
  router = draw(st.sampled_from(sorted(ROUTERS)))
  keys = keys_of(router)
  own = [path for path in keys if path.startswith(ROUTER)]
  paths = draw(st.sets(st.sampled_from(sorted(keys)), max_size=6))
  paths |= draw(st.sets(st.sampled_from(own or sorted(keys)), max_size=2))
  return {
    f'{ROUTER}.name': router,
    **{path: draw(keys[path]) for path in sorted(paths)},
  }


def _changed(changes):
  """The run with the changes; an example whose keys do not fit is left out."""
  run = config_tree.override(RUN, ROUTER, changes[f'{ROUTER}.name'])
  tree = config_tree.to_dict(run)
  for path, value in changes.items():
    *parents, last = path.split('.')
    node = tree
    for parent in parents:
      node = node[parent]
    node[last] = list(value) if isinstance(value, tuple) else value
  try:
    return config_tree.from_config_dict(config.Run, tree)
  except errors.InputError:
    hypothesis.reject()


def test_the_keys_are_of_all_rooms_and_of_every_router():
  for router in ROUTERS:
    keys = keys_of(router)
    assert len(keys) > 90
    assert {path.partition('.')[0] for path in keys} >= {
      'seed', 'data', 'mesh', 'model', 'opt', 'train',
    }  # fmt: skip


@given(changes=_changes(), data=st.data())
def test_flags_in_any_order_say_what_a_config_file_says(changes, data):
  wanted = _changed(changes)
  flags = [(path, _text(value)) for path, value in changes.items()]
  found = config_tree.override_all(RUN, data.draw(st.permutations(flags)))
  assert found == wanted
  flat = config_tree.flatten(found)
  for path, value in changes.items():
    assert flat[path] == (list(value) if isinstance(value, tuple) else value)
  others = set(config_tree.differences(RUN, found)) - set(changes)
  assert all(path.startswith(ROUTER) for path in others)


@given(changes=_changes())
def test_a_config_is_the_same_after_every_way_there_and_back(changes):
  run = _changed(changes)
  tree = json.loads(json.dumps(config_tree.to_dict(run)))
  assert config_tree.from_config_dict(config.Run, tree) == run
  config_dict = config_tree.to_config_dict(run)
  assert config_tree.from_config_dict(config.Run, config_dict) == run
  lines = [line.split(' = ') for line in config_text.to_text(run).splitlines()]
  flat = {key: json.loads(value) for key, value in lines}
  assert flat == config_tree.flatten(run)
