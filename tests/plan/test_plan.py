"""The real training step, compiled for fake CPU devices, and the command."""

import dataclasses
import json
import pathlib

import jax
import pytest

from moejax import config
from moejax.cli import plan as plan_command
from moejax.core import errors, exits
from moejax.plan import compile as compiling
from moejax.plan import count, memory, plan, search, table, topology

CONFIG = pathlib.Path(__file__).parents[2] / 'configs' / 'ds_2b.py'
TINY = f'--config={CONFIG}:tiny'
FLOAT32 = 4


def _run(*overrides):
  pairs = [text.split('=', 1) for text in overrides]
  return config.load(f'{CONFIG}:tiny', [tuple(pair) for pair in pairs])


@pytest.fixture(scope='module')
def dense():
  """A dense model on 4 devices, in 2 micro-batches."""
  run = _run(
    'model.moe.num_experts=0',
    'model.attention=xla',
    'model.remat=none',
    'model.dtype=float32',
    'train.micro_batches=2',
    'mesh.data=2',
    'mesh.fsdp=2',
  )
  return plan.make(run, topology.find('cpu:4'))


def test_flops_with_loop_trips_are_those_of_the_arithmetic(dense):
  # Layers, micro-batches and chunks of the loss are loops; all attention scores
  # are computed, none again.
  devices = 4
  assert dense.cost.unknown_loops == 0
  assert dense.cost.flops * devices == pytest.approx(
    dense.model_flops, rel=1e-3
  )


def test_memory_by_part_by_hand(dense):
  weights = dense.counted.total * FLOAT32
  split = dict(dense.memory.parts)
  rows = 8 * 64 // 4
  assert split['batch'] == 5 * FLOAT32 * rows
  # fsdp=2 halves what has a dimension `embed`: all but the norms' scales.
  norms = dense.counted.total_of['norms'] * FLOAT32
  assert split['parameters'] == (weights - norms) / 2 + norms / 2
  assert split['gradients'] == split['parameters']
  # Two moments, and two counters of int32.
  assert split['optimiser'] == pytest.approx(2 * split['parameters'], abs=16)


def test_the_total_is_what_the_compiler_holds_at_once(dense):
  found = dense.memory
  state = sum(
    found.parts[part] for part in ('parameters', 'optimiser', 'batch')
  )
  assert found.arguments == pytest.approx(state, abs=64)
  # The new state takes the old one's place.
  assert found.output - found.shared < 1e-2 * found.output + 4096
  by_part = sum(size for _, size, _ in found.rows())
  assert by_part == pytest.approx(found.total, abs=64)


def test_collectives_go_along_the_axes_of_the_mesh(dense):
  kinds = {kind for kind, _ in dense.collectives}
  axes = {axes for _, axes in dense.collectives}
  assert 'all-gather' in kinds
  assert axes <= {'data', 'fsdp', 'data+fsdp'}
  # Both weights' gathers are along fsdp alone.
  gathers = {axes for kind, axes in dense.collectives if kind == 'all-gather'}
  assert gathers == {'fsdp'}


@pytest.mark.soak
def test_flops_of_experts_are_those_of_the_arithmetic():
  run = _run(
    'model.moe.dispatcher=capacity',
    'model.moe.dispatcher.factor=1.0',
    'model.moe.grouped_matmul=batched',
    'model.attention=xla',
    'model.remat=none',
  )
  run = dataclasses.replace(
    run, model=dataclasses.replace(run.model, num_layers=3)
  )
  found = plan.make(run, topology.find('cpu:1'))
  # The router, in this size a few hundredths, is not in the arithmetic.
  assert found.cost.flops == pytest.approx(found.model_flops, rel=0.06)
  assert found.cost.flops > found.model_flops


def _memory(**changes):
  plain = memory.Memory(
    parts={'parameters': 30.0, 'gradients': 30.0},
    arguments=40,
    temporary=50,
    output=35,
    shared=30,
    code=1,
    limit=100,
  )
  return dataclasses.replace(plain, **changes)


@pytest.mark.parametrize(
  ('found', 'total', 'fits'),
  [
    (_memory(), 96, True),
    (_memory(limit=95), 96, False),
    (_memory(refusal='Used 1 of 0'), 60, False),
  ],
)
def test_fits_or_not(found, total, fits):
  assert (found.total, found.fits) == (total, fits)


@pytest.mark.parametrize(
  ('name', 'why'),
  [
    ('v9:4x4', 'did you mean'),
    ('v5p', 'has no shape'),
    ('v5p:4xx4', 'has no shape'),
    ('cpu:none', 'must be cpu:<devices>'),
    ('cpu:8 --slices=2', 'only TPU slices can be several'),
    ('cpu:8 --slices=0', '--slices=0 must be 1 or more'),
    ('cpu:4096', 'xla_force_host_platform_device_count=4096'),
  ],
)
def test_bad_topologies_are_one_line(name, why, capsys):
  flags = f'--topology={name}'.split()
  assert exits.call(plan_command.main, [TINY, *flags]) == 2
  lines = capsys.readouterr().err.splitlines()
  assert len(lines) == 1
  assert why in lines[0]


@pytest.mark.parametrize('search', [[], ['--search']])
@pytest.mark.parametrize(
  ('out', 'why'),
  [('', 'is a folder'), ('no/plan.json', 'there is no folder')],
)
def test_a_plan_that_cannot_be_written_is_not_made(
  out, why, search, monkeypatch, tmp_path, capsys
):
  for module, name in ((plan, 'make'), (plan_command.search, 'run')):
    monkeypatch.setattr(module, name, lambda *_: pytest.fail('compiled'))
  flags = ['--topology=cpu:1', f'--out={tmp_path / out}', *search]
  assert exits.call(plan_command.main, [TINY, *flags]) == 2
  (line,) = capsys.readouterr().err.splitlines()
  assert f'--out={tmp_path / out}' in line
  assert why in line
  assert not any(tmp_path.iterdir())


def test_without_libtpu_one_line_says_what_to_install(monkeypatch):
  monkeypatch.setattr(topology.importlib.util, 'find_spec', lambda _: None)
  with pytest.raises(errors.InputError, match=r"pip install 'moejax\[tpu\]'"):
    topology.find('v5p:4x4x4')


def test_the_command_writes_json(tmp_path, capsys, dense, monkeypatch):
  monkeypatch.setattr(plan, 'make', lambda run, where: dense)
  out = tmp_path / 'plan.json'
  argv = [TINY, '--topology=cpu:4', f'--out={out}']
  assert exits.call(plan_command.main, argv) == 0
  tree = json.loads(out.read_text())
  assert tree['fits'] is True
  assert tree['mesh'] == {
    'data': 2,
    'stage': 1,
    'fsdp': 2,
    'expert': 1,
    'context': 1,
    'model': 1,
  }
  assert tree['parameters']['total'] == dense.counted.total
  assert tree['token_budget'] == 20 * 8 * 64
  sources = {row['source'] for row in tree['bytes_per_device']['parts']}
  assert sources == {'compiler', 'arithmetic'}
  text = capsys.readouterr().out
  assert 'fits' in text
  assert 'measured: nothing' in text


def test_what_does_not_fit_has_a_code_of_its_own(dense, monkeypatch, capsys):
  over = dataclasses.replace(dense.memory, temporary=5 * 2**30, limit=2**30)
  small = dataclasses.replace(dense, memory=over)
  monkeypatch.setattr(plan, 'make', lambda run, where: small)
  code = exits.call(plan_command.main, [TINY, '--topology=cpu:4'])
  assert code == exits.DOES_NOT_FIT == 5
  shown = capsys.readouterr()
  assert 'DOES NOT FIT' in shown.out
  # 5 GiB, and some MiB of arguments, on a device of 1 GiB.
  assert 'than there is, by 4.0 GiB a device; by arithmetic it' in shown.err


def test_a_compiler_that_runs_out_of_memory_is_a_plan_that_does_not_fit():
  class Lowered:
    def compile(self, options):
      raise jax.errors.JaxRuntimeError(
        'RESOURCE_EXHAUSTED: Ran out of memory.\n Used 120.04G of 95.74G hbm. '
        'Exceeded hbm capacity by 24.30G. And so on.'
      )

  program, refusal = compiling.compile_or_refuse(Lowered())
  assert program is None
  assert refusal == (
    'Used 120.04G of 95.74G hbm. Exceeded hbm capacity by 24.30G'
  )


class _Unreadable:
  def as_text(self):
    raise jax.errors.JaxRuntimeError('INTERNAL: RET_CHECK failure')


def test_a_program_that_jax_cannot_print_is_read_as_it_was_written(tmp_path):
  with pytest.raises(jax.errors.JaxRuntimeError, match='RET_CHECK'):
    compiling.text_of(_Unreadable(), tmp_path)
  (tmp_path / 'module_0.jit_step.after_codegen.txt').write_text('HloModule')
  (tmp_path / 'module_0.jit_step.before_optimizations.txt').write_text('no')
  assert compiling.text_of(_Unreadable(), tmp_path) == 'HloModule'


def test_a_search_sorts_and_a_bad_candidate_is_a_row(dense, monkeypatch):
  def make(run, where):
    del where
    if run.mesh.expert > 1:
      raise errors.InputError('no such thing')
    return dense

  monkeypatch.setattr(plan, 'make', make)
  where, lines = topology.find('cpu:4'), []
  rows = search.run(_run(), where, 1000, lines.append)
  bad = [row for row in rows if not row.fits]
  good = [row for row in rows if row.fits]
  assert bad
  assert {row.note for row in bad} == {'no such thing'}
  assert rows == good + bad
  assert json.dumps(search.to_json(rows))
  table.show_search(_run(), rows)
  assert len(search.run(_run(), where, 3, lines.append)) == 3


def test_what_products_in_fewer_bits_gain_is_not_counted(dense, capsys):
  def shown(run):
    table.show(dataclasses.replace(dense, run=run))
    one = capsys.readouterr().out
    table.show_search(run, [])
    return [' '.join(out.split()) for out in (one, capsys.readouterr().out)]

  for out in shown(_run('model.quantization=fp8')):
    assert 'Not in these figures: how much faster than bfloat16 a device' in out
    assert 'multiplies fp8 (model.quantization); utilisation is of' in out
  assert not any('model.quantization' in out for out in shown(dense.run))


def test_arithmetic_leaves_out_what_cannot_fit():
  where = dataclasses.replace(topology.find('cpu:4'), memory=10)
  with pytest.raises(errors.InputError, match='take more chips'):
    search.run(_run('mesh.data=3'), where, 3, lambda _: None)


def test_count_is_the_same_as_the_command_s(dense):
  assert dense.counted == count.count(dense.run.model)


@pytest.mark.soak
def test_the_bubble_of_a_pipeline_is_in_the_figures(capsys):
  """Two stages, four microbatches: layers compute five times for four.

  The head and the loss are outside.
  """
  run = _run(
    'model.moe.num_experts=0',
    'model.attention=xla',
    'model.remat=none',
    'model.dtype=float32',
    'mesh.data=1',
    'mesh.stage=2',
    'model.pipeline.microbatches=4',
  )
  planned = plan.make(run, topology.find('cpu:2'))
  head = 6 * planned.counted.active_of['head'] * planned.tokens
  layers = planned.model_flops - head
  assert planned.cost.unknown_loops == 0
  assert planned.cost.flops * 2 == pytest.approx(
    layers * 5 / 4 + head, rel=1e-3
  )
  table.show(planned)
  shown = ' '.join(capsys.readouterr().out.split())
  assert '2 stages of 1 layer, passed by 4 microbatches' in shown
  assert 'the bubble is 20.0% of the iterations' in shown
