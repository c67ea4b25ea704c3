"""Ranges of numbers: stated with the key, held on every way in."""

import dataclasses
import math

import pytest

from moejax.core import bounds, config, errors


@dataclasses.dataclass(frozen=True)
class Part(config.Checked):
  k: int = config.number(2, at_least=1, at_most=8)
  share: float = config.number(0.5, above=0, below=1)
  most: int = config.number(0, at_least=0, note='0: all')
  clip: float | None = config.number(None, above=0, at_most=10)
  windows: tuple[int, ...] = config.number((), at_least=0, at_most=99)


@dataclasses.dataclass(frozen=True)
class Whole:
  parts: tuple[object, ...] = config.choices({'part': Part})
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
    config.override(Whole(), f'part.{key}', text)
  assert str(error.value) == f'part.{message}'
  with pytest.raises(errors.InputError) as error:
    config.override(Whole(), f'parts.part.{key}', text)
  assert str(error.value) == f'parts.part.{message}'
  with pytest.raises(errors.InputError) as error:
    config.from_config_dict(Whole, {'part': {key: value}})
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
    config.number(0.5, **ends)
