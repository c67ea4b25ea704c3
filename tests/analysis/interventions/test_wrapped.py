"""A wrapped router answers as the router inside, but for what it changes."""

import dataclasses
import inspect

import pytest

from moejax.analysis.interventions import wrapped
from moejax.moe import contract

# What the base of all routers defines, and an intervention may change.
CHANGED = {'__call__', 'experts_per_token'}
# Statements about a class of routers, not about one router.
OF_CLASSES = {name for name, value in vars(contract.Router).items()
              if isinstance(value, bool | str)}  # fmt: skip
ASKED = sorted(
  name
  for name in vars(contract.Router)
  if not name.startswith('_') and name not in OF_CLASSES
)
# Those that give another router, which stays wrapped.
GIVE_ROUTERS = {'shrunk', 'with_groups'}


@dataclasses.dataclass(frozen=True)
class Inside(contract.Router):
  """Answers every question by its name and its arguments."""

  def __call__(self, inputs):
    return inputs


def _answer(name):
  if isinstance(vars(contract.Router)[name], property):
    return property(lambda self: ('inside', name))
  return lambda self, *args: ('inside', name, *args)


for _name in ASKED:
  setattr(Inside, _name, _answer(_name))


def _ask(router, name):
  """The answer of a router; arguments are their names."""
  question = vars(contract.Router)[name]
  if isinstance(question, property):
    return getattr(router, name)
  arguments = [*inspect.signature(question).parameters][1:]
  return getattr(router, name)(*arguments)


@pytest.mark.parametrize('name', sorted({*ASKED} - CHANGED))
def test_a_question_is_answered_by_the_router_inside(name):
  if name == 'check':
    return  # it gives nothing
  assert _ask(Inside(), name)[:2] == ('inside', name)
  answer = _ask(wrapped.Wrapped(Inside(), (1,)), name)
  if name in GIVE_ROUTERS:
    assert answer.layers == (1,)
    answer = answer.router
  assert answer == _ask(Inside(), name)


def test_a_check_is_that_of_the_router_inside(monkeypatch):
  asked = []
  monkeypatch.setattr(Inside, 'check', lambda self, num: asked.append(num))
  wrapped.Wrapped(Inside()).check(6)
  assert asked == [6]


def test_the_number_of_experts_is_that_of_the_router_inside():
  assert wrapped.Wrapped(Inside()).experts_per_token == _ask(
    Inside(), 'experts_per_token'
  )
