"""Ranges of numbers: stated with the key, held on every way in."""

import dataclasses
import math
import typing

import pytest

from moejax import config
from moejax.core import bounds, config_tree, errors, fields


@dataclasses.dataclass(frozen=True)
class Part(fields.Checked):
  k: int = fields.number(2, at_least=1, at_most=8)
  share: float = fields.number(0.5, above=0, below=1)
  most: int = fields.number(0, at_least=0, note='0: all')
  clip: float | None = fields.number(None, above=0, at_most=10)
  windows: tuple[int, ...] = fields.number((), at_least=0, at_most=99)


@dataclasses.dataclass(frozen=True)
class Whole:
  parts: tuple[object, ...] = fields.choices({'part': Part})
  part: Part = Part()


@pytest.mark.parametrize(
  ('key', 'value', 'message'),
  [
    ('k', 0, 'k=0 must be from 1 to 8'),
    ('k', 9, 'k=9 must be from 1 to 8'),
    ('share', 0.0, 'share=0.0 must be above 0 and below 1'),
    ('share', 1.0, 'share=1.0 must be above 0 and below 1'),
    ('most', -1, 'most=-1 must be from 0 to 2147483647 (0: all)'),
    ('most', 2**31, 'most=2147483648 must be from 0 to 2147483647 (0: all)'),
    ('clip', 0.0, 'clip=0.0 must be above 0 and at most 10'),
    ('windows', (5, 100), 'windows=100 must be from 0 to 99'),
  ],
)
def test_every_way_in_refuses_a_number_outside_with_the_same_words(
  key, value, message
):
  text = ','.join(map(str, value)) if isinstance(value, tuple) else str(value)
  with pytest.raises(errors.InputError) as error:
    config_tree.override(Whole(), f'part.{key}', text)
  assert str(error.value) == f'part.{message}'
  with pytest.raises(errors.InputError) as error:
    config_tree.override(Whole(), f'parts.part.{key}', text)
  assert str(error.value) == f'parts.part.{message}'
  with pytest.raises(errors.InputError) as error:
    config_tree.from_config_dict(Whole, {'part': {key: value}})
  assert str(error.value) == f'part.{message}'
  with pytest.raises(errors.InputError) as error:
    Part(**{key: value})
  assert str(error.value) == f'Part.{message}'


def test_the_ends_are_inside_where_they_are_said_to_be():
  Part(k=1), Part(k=8), Part(most=bounds.LARGEST), Part(clip=10.0)
  Part(windows=(0, 99)), Part(clip=None)


def test_nan_is_in_no_range():
  with pytest.raises(errors.InputError, match='share=nan must be'):
    Part(share=math.nan)


@pytest.mark.parametrize(
  'ends',
  [
    {'at_least': 0, 'above': 0, 'at_most': 1},
    {'at_most': 1},
    {'above': 0, 'at_most': 1, 'below': 1},
  ],
)
def test_a_range_has_one_lower_and_one_upper_end(ends):
  with pytest.raises(ValueError, match='one lower and one upper end'):
    fields.number(0.5, **ends)


def _numbers(cls, flags=(), where=''):
  """All numeric keys of a tree: class, field, its key, flags that choose it."""
  for field in dataclasses.fields(cls):
    hint, place = typing.get_type_hints(cls)[field.name], where + field.name
    if 'choice' in field.metadata:
      for name, entry in field.metadata['choice'].items():
        yield from _numbers(entry, (*flags, (place, name)), f'{place}.')
    elif 'choices' in field.metadata:
      for name, entry in field.metadata['choices'].items():
        yield from _numbers(entry, flags, f'{place}.{name}.')
    elif 'keyed' in field.metadata:
      yield from _numbers(field.metadata['keyed'], flags, f'{place}.any.')
    elif dataclasses.is_dataclass(hint):
      yield from _numbers(hint, flags, f'{place}.')
    elif {int, float} & {hint, *typing.get_args(hint)}:
      yield cls, field, place, flags


def _just_outside(limits, whole):
  """The nearest numbers outside: below, and above."""
  step = (lambda x, to: x + (1 if to > x else -1)) if whole else math.nextafter
  low, high = limits.at_least, limits.at_most
  yield limits.above if low is None else step(low, -math.inf)
  yield limits.below if high is None else step(high, math.inf)


def test_every_number_of_a_run_has_bounds_that_hold_on_every_way_in():
  """Every entry of every table included; defaults lie inside."""
  found = list(_numbers(config.Run))
  assert len(found) > 250
  run = config.Run()
  for cls, field, key, flags in found:
    limits = bounds.of(field)
    assert limits is not None, f'{key} ({cls.__name__}) states no bounds'
    hint = str(typing.get_type_hints(cls)[field.name])
    default = field.default
    many = default if isinstance(default, tuple) else (default,)
    assert all(one is None or one in limits for one in many), key
    for value in _just_outside(limits, 'int' in hint):
      value = value if 'int' in hint else float(value)
      with pytest.raises(errors.InputError) as error:
        config_tree.override_all(run, [(key, str(value)), *flags])
      assert str(error.value) == f'{key}={value} must be {limits}'
      with pytest.raises(errors.InputError) as error:
        cls(**{field.name: (value,) if isinstance(default, tuple) else value})
      assert str(error.value).endswith(f'{field.name}={value} must be {limits}')
