"""Routers, dispatchers and expert parallelism on every mesh equal one device.

The problem has an expert that nobody chooses, one that all tokens choose, rows
of padding, and groups that are no multiple of any tile. Here every router and
every dispatcher meets every mesh, and every dispatcher meets every entry of
EXPERT_PARALLEL on a mesh with an `expert` axis. Cases whose property a quicker
one shows too are marked `soak`: by default, a few routers meet the meshes, and
the dozen that is of every kind meets one in the soak. `tests/soak` has the
product.
"""

import itertools

import jax
import pytest
from helpers import sharded

from moejax.moe.dispatchers import DISPATCHERS
from moejax.moe.expert_parallel import EXPERT_PARALLEL
from moejax.moe.routers import ROUTERS

# mesh -> dispatcher and entry of EXPERT_PARALLEL for all routers at once.
ALL_ROUTERS = {
  'one': ('reference', 'gather_experts'),
  'data': ('dropless', 'gather_experts'),
  'fsdp': ('capacity', 'gather_experts'),
  'expert': ('dropless', 'all_to_all'),
  'expert_fsdp': ('capacity', 'all_to_all'),
  'expert_model': ('dropless', 'ragged_all_to_all'),
}
# The other pairs of a dispatcher and an entry, and of a dispatcher and a
# mesh, with routers whose lists are of each kind.
SOME = ('top_k', 'expert_choice', 'tc_moe')
PAIRS = [
  ('capacity', 'gather_experts', 'expert'),
  ('capacity', 'ragged_all_to_all', 'expert_model'),
  ('capacity', 'all_gather', 'expert_data'),
  ('dropless', 'gather_experts', 'expert_fsdp'),
  ('dropless', 'all_gather', 'expert_data'),
  ('reference', 'all_to_all', 'expert_data'),
  ('dropless', 'all_to_all', 'expert'),
  ('dropless', 'all_to_all', 'expert_context'),
  ('capacity', 'all_to_all', 'expert_stage'),
  ('reference', 'gather_experts', 'expert_model'),
  ('reference', 'ragged_all_to_all', 'expert_fsdp'),
  ('reference', 'all_gather', 'expert'),
  ('capacity', 'all_to_all', 'expert_fsdp'),
  # Without an `expert` axis no entry takes part.
  ('capacity', 'gather_experts', 'one'),
  ('capacity', 'gather_experts', 'data'),
  ('dropless', 'gather_experts', 'one'),
  ('dropless', 'gather_experts', 'fsdp'),
  ('reference', 'gather_experts', 'data'),
  ('reference', 'gather_experts', 'fsdp'),
]


def test_nothing_is_left_out():
  cases = [(*pair, mesh) for mesh, pair in ALL_ROUTERS.items()] + PAIRS
  found = {(dispatcher, mesh) for dispatcher, _, mesh in cases}
  assert found >= {*itertools.product(DISPATCHERS, ALL_ROUTERS)}
  found = {c[:2] for c in cases if 'expert' in sharded.MESHES[c[2]]}
  assert found == {*itertools.product(DISPATCHERS, EXPERT_PARALLEL)}
  assert {mesh for *_, mesh in cases} == sharded.MESHES.keys()
  for i, names in enumerate((DISPATCHERS, EXPERT_PARALLEL)):
    assert {case[i] for case in QUICK} == {*names}
  axes = {axis for *_, mesh in QUICK for axis in sharded.MESHES[mesh]}
  assert axes == {axis for mesh in sharded.MESHES.values() for axis in mesh}


# Rows and experts are both split over `expert`, and tokens travel.
DEFAULT = 'expert'
# Every dispatcher, every entry, and every axis of a mesh.
QUICK = {
  ('capacity', 'ragged_all_to_all', 'expert_model'),
  ('capacity', 'all_gather', 'expert_data'),
  ('dropless', 'gather_experts', 'fsdp'),
  ('dropless', 'all_to_all', 'expert_context'),
  ('capacity', 'all_to_all', 'expert_stage'),
  ('reference', 'gather_experts', 'data'),
}


def kind_of(name):
  """What a router's class says of itself, and the form of its lists.

  A token has one choice, several, or a number that is not known.
  """
  router = ROUTERS[name]()
  routing = jax.eval_shape(lambda: sharded.routing_of(name))
  says = (
    router.is_learned,
    router.experts_are_alike,
    router.tokens_compete,
    router.follows_selection_bias,
  )
  form = (
    routing.per_token and min(routing.per_token, 2),
    routing.scales_input,
    len(router.extra_scorers(sharded.E)),
    router.num_logits(sharded.E),
  )
  return {says, *enumerate(form)}


def test_a_dozen_routers_are_of_every_kind():
  kinds = set().union(*map(kind_of, sharded.EVERY_KIND))
  for name in ROUTERS:
    assert kind_of(name) <= kinds, name


@pytest.mark.soak
def test_every_kind_of_router_on_a_mesh():
  sharded.check(DEFAULT, *ALL_ROUTERS[DEFAULT], sharded.EVERY_KIND)


@pytest.mark.soak
@pytest.mark.parametrize('mesh', sorted(ALL_ROUTERS))
def test_every_router_on_every_mesh(mesh):
  sharded.check(mesh, *ALL_ROUTERS[mesh], sorted(ROUTERS))


@pytest.mark.parametrize(
  ('dispatcher', 'expert_parallel', 'mesh'),
  [
    pytest.param(*pair, marks=[] if pair in QUICK else [pytest.mark.soak])
    for pair in PAIRS
  ],
)
def test_every_dispatcher_with_every_entry(dispatcher, expert_parallel, mesh):
  sharded.check(mesh, dispatcher, expert_parallel, SOME)


def test_the_problem_has_an_empty_and_a_full_expert():
  routing = sharded.routing_of('top_k')
  count_E = sharded.count(routing)
  assert count_E[sharded.EMPTY] == 0
  assert count_E[sharded.FULL] == sharded.VALID_T.sum()


def test_a_wrong_entry_is_seen(monkeypatch):
  """Rows that come back in another order."""
  from_device = EXPERT_PARALLEL['all_gather'].__call__

  def astray(self, run, weights, x_TD, routing, num_experts):
    return from_device(self, run, weights, x_TD[::-1], routing, num_experts)

  monkeypatch.setattr(EXPERT_PARALLEL['all_gather'], '__call__', astray)
  with pytest.raises(AssertionError):
    sharded.check('expert_data', 'dropless', 'all_gather', SOME[:1])
