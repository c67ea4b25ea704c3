"""What a search tries, and in which order; at the end, with real compiling."""

import dataclasses
import json
import pathlib

import pytest

from moejax import config
from moejax.cli import plan as plan_command
from moejax.core import exits
from moejax.plan import count, memory, plan, rough, search, topology
from moejax.plan.chips import CHIPS

CONFIGS = pathlib.Path(__file__).parents[2] / 'configs'
TINY = f'{CONFIGS / "ds_2b"}.py:tiny'


@pytest.fixture(scope='module')
def ds_16b():
  return config.load(f'{CONFIGS / "ds_16b"}.py')


def _tiny(*overrides):
  return config.load(TINY, [tuple(o.split('=', 1)) for o in overrides])


def _slice(number, kind='v5p'):
  """So many chips of which nothing is asked."""
  chip = CHIPS[kind]
  return topology.Slice(kind, (None,) * number, number, chip, chip.hbm)


@pytest.fixture(scope='module')
def found(ds_16b):
  return search.candidates(ds_16b, _slice(64))


def test_the_own_setting_of_the_16b_model_is_the_first(found, ds_16b):
  first = found[0]
  sizes = (first.mesh.data, first.mesh.fsdp)
  assert sizes == (ds_16b.mesh.data, 64 // ds_16b.mesh.data)
  assert first.of(ds_16b) == dataclasses.replace(ds_16b, mesh=first.mesh)
  assert found.count(first) == 1


def test_the_own_setting_need_not_be_promising():
  """Nor fit, by the estimate: the compiler knows better."""
  poor = _tiny('train.micro_batches=2', 'mesh.model=4', 'mesh.data=1')
  first = search.candidates(poor, _slice(4))[0]
  assert (first.mesh_text, first.micro_batches) == ('model=4', 2)
  small = dataclasses.replace(_slice(4), memory=1000)
  assert search.candidates(poor, small) == [first]


def test_a_mesh_of_other_devices_is_no_setting_of_its_own():
  run = _tiny('mesh.data=3')
  assert search.own_setting(run, 4) == []
  assert search.candidates(run, _slice(4))


def test_those_that_a_search_compiles_are_not_all_alike(found):
  for more in (
    {one.remat for one in found[:8]},
    {one.micro_batches > 1 for one in found[:8]},
    {one.mesh.expert > 1 for one in found[:8]},
    {one.mesh.model > 1 for one in found[:8]},
  ):
    assert len(more) > 1
  families = [one.family for one in found[1:8]]
  assert len(set(families)) == len(families)


def test_in_a_family_they_are_in_the_order_of_the_estimate(found, ds_16b):
  counted = count.count(ds_16b.model)
  family = [one for one in found[1:200] if one.family == found[1].family]
  times = [
    rough.of(
      one.of(ds_16b), dataclasses.asdict(one.mesh), CHIPS['v5p'], counted
    ).seconds
    for one in family
  ]
  assert len(times) > 10
  assert times == sorted(times)


def test_of_those_that_differ_in_chunks_alone_there_is_one(found):
  others = [dataclasses.replace(one, token_chunks=0) for one in found[1:]]
  assert len(set(others)) == len(others)


def test_the_batch_is_the_config_s_unless_others_are_asked_for(ds_16b):
  run = _tiny()
  one = search.candidates(run, _slice(4))
  assert {candidate.batch_size for candidate in one} == {8}
  two = search.candidates(run, _slice(4), (4, 16))
  # The own setting is tried all the same.
  assert two[0].batch_size == 8
  assert {candidate.batch_size for candidate in two[1:]} == {4, 16}
  assert two[1].of(run).train.batch_size in {4, 16}


def test_meshes_are_those_that_the_sizes_allow():
  found = search.meshes(_tiny(), 8)
  assert found
  for mesh in found:
    assert mesh.data * mesh.fsdp * mesh.expert * mesh.model == 8
    assert 8 % mesh.expert == 0  # of its 8 experts
    assert 4 % mesh.model == 0  # of its 4 heads


def test_batch_sizes_that_are_none_are_one_line(capsys):
  flags = [f'--config={TINY}', '--topology=cpu:2', '--batch_sizes=4,x']
  assert exits.call(plan_command.main, flags) == 2
  assert '--batch_sizes=4,x must be numbers' in capsys.readouterr().err
  flags[-1] = '--batch_sizes=4'
  assert exits.call(plan_command.main, flags) == exits.BAD_INPUT
  assert '--batch_sizes=4 is for --search' in capsys.readouterr().err
  flags[-1] = '--limit=3'
  assert exits.call(plan_command.main, flags) == exits.BAD_INPUT
  assert '--limit=3 is for --search' in capsys.readouterr().err


# tests/plan/test_plan.py has one compiled plan, and a search of made-up ones.
@pytest.mark.soak
def test_a_search_that_compiles(tmp_path, capsys, monkeypatch):
  """Two settings of a tiny dense model on two fake devices, by the command."""
  made, make = [], plan.make
  monkeypatch.setattr(
    plan, 'make', lambda *of: made.append(make(*of)) or made[-1]
  )
  out = tmp_path / 'search.json'
  flags = [f'--config={TINY}', '--topology=cpu:2', f'--out={out}']
  flags += ['--search', '--limit=2', '--config.mesh.data=1']
  flags += ['--config.mesh.fsdp=2', '--config.model.attention=xla']
  flags += ['--config.model.moe.num_experts=0']
  assert exits.call(plan_command.main, flags) == 0
  rows = json.loads(out.read_text())['rows']
  assert made[0].mesh == {
    'data': 1,
    'stage': 1,
    'fsdp': 2,
    'expert': 1,
    'context': 1,
    'model': 1,
  }
  assert [row['mesh'] for row in rows] == [one.mesh for one in made]
  assert [row['total'] for row in rows] == [one.memory.total for one in made]
  assert rows[0]['candidate'] != rows[1]['candidate']
  state = 12 * made[0].counted.total
  for row in rows:
    assert (row['fits'], row['note']) == (True, 'fits')
    # Weights and both moments, over at most two devices, and more.
    assert row['total'] > state / 2
    assert row['seconds'] > 0
  assert 'compiling 2' in capsys.readouterr().out


def _planned(run, where):
  """A plan that needs 5 GiB more than a device has."""
  limit = where.memory
  needs = memory.Memory({}, limit + 5 * 2**30, 0, 0, 0, 0, limit)
  counted = count.count(run.model)
  return plan.Plan(run, where, counted, {}, needs, None, {}, None, {})


def test_the_remedy_is_a_setting_that_fits_by_arithmetic(ds_16b):
  """On half of the chips the 16B model fits with other settings only."""
  where = _slice(32)
  planned = _planned(ds_16b, where)
  text = search.remedy(planned)
  assert text.startswith(', by 5.0 GiB a device; by arithmetic it would fit')
  first = search.candidates(ds_16b, where)[1]
  assert f'with {first.mesh_text}, model.remat={first.remat}' in text
  assert f'train.micro_batches={first.micro_batches} and' in text


def test_without_a_setting_that_fits_more_devices_are_needed(ds_16b):
  text = search.remedy(_planned(ds_16b, _slice(1)))
  assert text == ', by 5.0 GiB a device; take more devices'


@pytest.mark.parametrize('axis', ['context', 'stage'])
def test_a_search_keeps_axes_that_it_does_not_try(axis):
  run = config.load(TINY)
  run = dataclasses.replace(
    run, mesh=dataclasses.replace(run.mesh, **{axis: 2})
  )
  found = search.meshes(run, 8)
  assert {getattr(mesh, axis) for mesh in found} == {2}
  assert {
    mesh.data * mesh.fsdp * mesh.expert * mesh.model for mesh in found
  } == {4}
  assert search.meshes(run, 7) == []
