import dataclasses

import pytest

from moejax.core import errors, table


@dataclasses.dataclass(frozen=True)
class TopK:
  k: int = 2
  jitter: float = 0.0


@dataclasses.dataclass(frozen=True)
class Hash:
  seed: int = 0


ROUTERS = {'top_k': TopK, 'hash': Hash}


def test_make_builds_the_named_dataclass_with_its_fields():
  assert table.make('router', ROUTERS, {'name': 'top_k', 'k': 3}) == TopK(3)
  assert table.make('router', ROUTERS, {'name': 'hash'}) == Hash()


def test_make_leaves_its_argument_alone():
  spec = {'name': 'hash', 'seed': 4}
  table.make('router', ROUTERS, spec)
  assert spec == {'name': 'hash', 'seed': 4}


@pytest.mark.parametrize(
  ('spec', 'message'),
  [
    (
      {'name': 'topk'},
      "unknown router 'topk'; did you mean 'top_k'? known are: hash, top_k",
    ),
    ({'name': 'xyz'}, "unknown router 'xyz'; known are: hash, top_k"),
    ({'name': ['x']}, "unknown router ['x']; known are: hash, top_k"),
    ({'k': 1}, "router {'k': 1} has no name; known are: hash, top_k"),
    (
      {'name': 'top_k', 'jiter': 1},
      "unknown key of router 'top_k' 'jiter'; did you mean 'jitter'? known are:"
      ' jitter, k',
    ),
  ],
)
def test_wrong_specs_name_the_right_ones(spec, message):
  with pytest.raises(errors.InputError) as error:
    table.make('router', ROUTERS, spec)
  assert str(error.value) == message


def test_an_empty_table_says_so():
  with pytest.raises(errors.InputError, match=r"'x'; known are: \(none\)$"):
    table.lookup('router', {}, 'x')


def test_name_of_goes_by_the_class_itself():
  class Special(TopK):
    pass

  for name, cls in ROUTERS.items():
    assert table.name_of(ROUTERS, cls()) == name
  with pytest.raises(KeyError, match='Special is in no line of the table'):
    table.name_of(ROUTERS, Special())
