"""Every router, dispatcher and exchange on every mesh equals one device.

The problem has an expert that nobody chooses, one that all tokens choose, rows
of padding, and groups that are no multiple of any tile. In the default run
every router and every dispatcher meets every mesh, and every dispatcher meets
every exchange on a mesh with an `expert` axis; `tests/soak` has the product.
"""

import itertools

import pytest
from helpers import sharded

from moejax.moe.dispatchers import DISPATCHERS
from moejax.moe.exchanges import EXCHANGES
from moejax.moe.routers import ROUTERS

# mesh -> dispatcher and exchange for all routers at once.
ALL_ROUTERS = {
  'one': ('reference', 'gathered'),
  'data': ('dropless', 'gathered'),
  'fsdp': ('capacity', 'gathered'),
  'expert': ('dropless', 'all_to_all'),
  'expert_fsdp': ('capacity', 'all_to_all'),
  'expert_model': ('dropless', 'ragged_all_to_all'),
}
# The other pairs of a dispatcher and an exchange, and of a dispatcher and a
# mesh, with routers whose lists are of each kind.
SOME = ('top_k', 'expert_choice', 'tc_moe')
PAIRS = [
  ('capacity', 'gathered', 'expert'),
  ('capacity', 'ragged_all_to_all', 'expert_model'),
  ('capacity', 'ring', 'expert_data'),
  ('dropless', 'gathered', 'expert_fsdp'),
  ('dropless', 'ring', 'expert_data'),
  ('reference', 'all_to_all', 'expert_data'),
  ('reference', 'gathered', 'expert_model'),
  ('reference', 'ragged_all_to_all', 'expert_fsdp'),
  ('reference', 'ring', 'expert'),
  # Without an `expert` axis no exchange takes part.
  ('capacity', 'gathered', 'one'),
  ('capacity', 'gathered', 'data'),
  ('dropless', 'gathered', 'one'),
  ('dropless', 'gathered', 'fsdp'),
  ('reference', 'gathered', 'data'),
  ('reference', 'gathered', 'fsdp'),
]


def test_nothing_is_left_out():
  cases = [(*pair, mesh) for mesh, pair in ALL_ROUTERS.items()] + PAIRS
  found = {(dispatcher, mesh) for dispatcher, _, mesh in cases}
  assert found >= {*itertools.product(DISPATCHERS, ALL_ROUTERS)}
  found = {c[:2] for c in cases if 'expert' in sharded.MESHES[c[2]]}
  assert found == {*itertools.product(DISPATCHERS, EXCHANGES)}
  assert {mesh for *_, mesh in cases} == sharded.MESHES.keys()


# What splits rows alone is also within what splits rows and experts.
SOAK = {'data', 'fsdp'}


@pytest.mark.parametrize(
  'mesh',
  [
    pytest.param(name, marks=[pytest.mark.soak] if name in SOAK else [])
    for name in sorted(ALL_ROUTERS)
  ],
)
def test_every_router_on_every_mesh(mesh):
  sharded.check(mesh, *ALL_ROUTERS[mesh], sorted(ROUTERS))


@pytest.mark.parametrize(('dispatcher', 'exchange', 'mesh'), PAIRS)
def test_every_dispatcher_with_every_exchange(dispatcher, exchange, mesh):
  sharded.check(mesh, dispatcher, exchange, SOME)


def test_the_problem_has_an_empty_and_a_full_expert():
  routing = sharded.routing_of('top_k')
  count_E = sharded.count(routing)
  assert count_E[sharded.EMPTY] == 0
  assert count_E[sharded.FULL] == sharded.VALID_T.sum()


def test_a_wrong_exchange_is_seen(monkeypatch):
  """Rows that come back in another order."""
  from_device = EXCHANGES['ring'].__call__

  def astray(self, run, weights, x_TD, routing, num_experts):
    return from_device(self, run, weights, x_TD[::-1], routing, num_experts)

  monkeypatch.setattr(EXCHANGES['ring'], '__call__', astray)
  with pytest.raises(AssertionError):
    sharded.check('expert_data', 'dropless', 'ring', SOME[:1])
