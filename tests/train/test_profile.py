"""Profiles: what is read of a trace, how it is summed, which steps it has."""

import itertools
import pathlib
import re
import types

import jax
import jax.numpy as jnp
import pytest
from helpers import tiny

from moejax.core import errors, scopes
from moejax.evals import perplexity
from moejax.moe.compute import permute
from moejax.train import optimizer, profile, profile_ops, profile_summary
from moejax.train import state as states
from moejax.train import step as step_maker
from moejax.train.config import TrainConfig
from moejax.train.optimizer import OptimizerConfig
from moejax.train.profile import Profile, Profiler
from moejax.train.profile_ops import Op

MICRO = 10**6  # picoseconds


def plane(name, lines):
  """A plane as text: {line: [(event, begin us, length us, stats)]}."""
  names = {e[0] for events in lines.values() for e in events}
  ids = {e: i + 1 for i, e in enumerate(sorted(names))}
  stats = {'hlo_op': 1, 'hlo_module': 2, 'device_ordinal': 3}
  text = f'planes {{ name: "{name}"\n'
  for line, events in lines.items():
    text += f'lines {{ name: "{line}" timestamp_ns: 0\n'
    for event, begin, length, more in events:
      text += (
        f'events {{ metadata_id: {ids[event]} offset_ps: {begin * MICRO} '
        f'duration_ps: {length * MICRO}'
      )
      for key, value in more.items():
        kind = 'int64_value' if isinstance(value, int) else 'str_value'
        shown = value if isinstance(value, int) else f'"{value}"'
        text += f' stats {{ metadata_id: {stats[key]} {kind}: {shown} }}'
      text += ' }\n'
    text += '}\n'
  for kind, table in (('event', ids), ('stat', stats)):
    for key, number in table.items():
      text += (
        f'{kind}_metadata {{ key: {number} value {{ id: {number} '
        f'name: "{key}" }} }}\n'
      )
  return text + '}\n'


def read(*planes):
  data = jax.profiler.ProfileData.from_text_proto('\n'.join(planes))
  found = profile_ops.of(data)
  return sorted((o.device, o.program, o.name, o.own) for o in found)


def on_cpu(name, begin, length, device=0):
  stats = {'hlo_op': name, 'hlo_module': 'jit_step', 'device_ordinal': device}
  return name, begin, length, stats


def test_time_inside_of_a_loop_is_that_of_its_operations():
  lines = {
    'one': [on_cpu('while.1', 0, 100), on_cpu('dot', 10, 30)],
    'other': [on_cpu('dot', 50, 20), ('Await', 0, 500, {})],
    'third': [on_cpu('copy', 0, 5, device=1)],
  }
  lines['one'] += [on_cpu('tanh', 40, 50), on_cpu('inner', 45, 5)]
  assert read(plane('/host:CPU', lines)) == [
    (0, 'jit_step', 'dot', 20_000.0),
    (0, 'jit_step', 'dot', 30_000.0),
    (0, 'jit_step', 'inner', 5_000.0),
    (0, 'jit_step', 'tanh', 45_000.0),
    (0, 'jit_step', 'while.1', 20_000.0),
    (1, 'jit_step', 'copy', 5_000.0),
  ]


def test_a_gpu_has_its_operations_in_streams():
  stats = {'hlo_op': 'gemm_fusion.2', 'hlo_module': 'jit_step'}
  lines = {'Stream #13(Compute)': [('sm90_gemm', 1, 2, stats)]}
  copies = {'Stream #14(MemcpyH2D)': [('MemcpyH2D', 0, 9, {})]}
  found = read(plane('/device:GPU:3', {**lines, **copies}))
  assert found == [(3, 'jit_step', 'gemm_fusion.2', 2_000.0)]


def test_a_tpu_names_the_program_on_another_line():
  lines = {
    'XLA Modules': [('jit_step(42)', 0, 50, {}), ('jit_eval(7)', 60, 20, {})],
    'XLA Ops': [
      ('%fusion.3 = bf16[8,8] fusion(%a)', 5, 10, {}),
      ('%dot.1', 65, 5, {}),
      ('%late', 90, 1, {}),
    ],
    'Async XLA Ops': [('%all-gather.1', 0, 50, {})],
  }
  assert read(plane('/device:TPU:1', lines)) == [
    (1, '', 'late', 1_000.0),
    (1, 'jit_eval', 'dot.1', 5_000.0),
    (1, 'jit_step', 'fusion.3', 10_000.0),
  ]


def op(name, begin, end, program='jit_step', device=0):
  return Op(device, program, name, begin * 1e6, end * 1e6, (end - begin) * 1e6)


def test_a_device_is_busy_while_any_of_its_operations_runs():
  ops = [op('a', 0, 10), op('b', 5, 12), op('c', 6, 8), op('d', 20, 25)]
  assert profile_ops.busy(ops) == (12 + 5) * 1e6


TEXT = """HloModule jit_step, is_scheduled=true

%fused (p: f32[8]) -> f32[8] {
  %p = f32[8]{0} parameter(0)
  ROOT %t = f32[8]{0} tanh(%p), metadata={op_name="jit(step)/router/tanh"}
}

ENTRY %main (x: f32[8]) -> f32[8] {
  %x = f32[8]{0} parameter(0)
  %dot.1 = f32[8]{0} dot(%x, %x), metadata={op_name="jit(s)/attention/dot"}
  %dot.2 = f32[8] dot(%x), metadata={op_name="transpose(jvp(experts))/dot"}
  %mul = f32[8] mul(%x), metadata={op_name="j/head/rematted_computation/mul"}
  %fusion = f32[8]{0} fusion(%x), kind=kLoop, calls=%fused
  %copy.3 = f32[8]{0} copy(%x)
  ROOT %all-reduce.1 = f32[8] all-reduce(%x), metadata={op_name="j/head/psum"}
}
"""


def test_shares_are_by_part_and_pass():
  ops = [op('dot.1', 0, 30), op('dot.2', 30, 70), op('mul', 70, 75)]
  ops += [op('fusion', 75, 80), op('copy.3', 80, 86), op('unknown', 86, 90)]
  ops += [op('all-reduce.1', 90, 100), op('dot.1', 0, 40, 'jit_eval')]
  ops += [op('dot.1', 0, 60, device=1)]
  found = profile_summary.summarise(ops, [TEXT, ''], (3, 4), 0.2)
  assert {(s.part, s.moment): round(s.seconds, 6) for s in found.shares} == {
    ('attention', 'forward'): 0.09,
    ('experts', 'backward'): 0.04,
    ('head', 'again'): 0.005,
    ('router', 'forward'): 0.005,
    ('moved', 'forward'): 0.006,
    ('other', 'forward'): 0.004,
    ('between', 'forward'): 0.01,
    ('outside', 'forward'): 0.04,
  }
  assert found.busy == pytest.approx((0.1 + 0.06) / 2 / 0.2)
  assert found.longest[0][0] == 'dot.1'
  lines = found.lines()
  assert lines[0] == (
    'Steps 3 to 4 took 100 ms each. A device computed in 40% of that time.'
  )
  assert lines[1].startswith('Of the computing, 45% is attention, 20% is ')
  assert lines[1].endswith(
    '20% is the backward pass, 2% is computed a second time for it.'
  )


def test_an_evaluation_between_steps_is_not_taken_for_the_step():
  """The steps ran 15 ms of 20, and the evaluation 60 ms of a pause of 70."""
  ops = [op('dot.1', 0, 5), op('dot.1', 75, 85)]
  ops += [op('big', 10, 70, 'jit_eval')]
  found = profile_summary.summarise(ops, [TEXT], (3, 4), 0.02, paused=0.07)
  (share,) = found.shares
  assert (share.part, round(share.seconds, 6)) == ('attention', 0.015)
  assert found.busy == pytest.approx(15 / 20)
  assert found.lines()[0] == (
    'Steps 3 to 4 took 10 ms each. 0.07 s of evaluations and checkpoints '
    'between them are left out. The device computed in 75% of that time.'
  )


def test_of_programs_of_one_name_that_of_the_operations_is_read():
  other = TEXT.replace('/attention/', '/head/').replace('%mul', '%m')
  larger = TEXT.replace('/attention/', '/images/').replace(
    '  %copy.3',
    '  %more = f32[8] dot(%x), metadata={op_name="j/dot"}\n  %copy.3',
  )
  ops = [op('dot.1', 0, 30), op('mul', 30, 31), op('fusion', 31, 32)]
  for texts in itertools.permutations([TEXT, larger, other]):
    found = profile_summary.summarise(ops, texts, (3, 3), 0.2)
    assert found.longest[0][1].part == 'attention'


def test_a_profile_without_operations_says_so():
  (line,) = profile_summary.summarise([], [], (3, 3), 0.2).lines()
  assert line == 'Step 3 took 200 ms. The profile has no operation of a device.'


@jax.jit
def step(x):
  @scopes.part('attention')
  def attend(x):
    return jnp.tanh(x @ x)

  return attend(x)


def profiled(folder, first, last, **config):
  """What a profiler says while it sees these steps; the run has twenty."""
  said = []
  profiler = Profiler(Profile(**config), folder, said.append, 20)
  x = jnp.ones((64, 64))
  for at in range(first, last + 1):
    profiler.before(at, x)
    with profiler.step(at):
      x = step(x)
    profiler.after(at, x)
  return profiler, said


def test_the_steps_of_the_config_are_profiled(tmp_path):
  _, said = profiled(tmp_path, 1, 8, at=5, steps=2)
  assert said[0].startswith('Steps 5 to 6 took ')
  assert 'is attention' in said[1]
  assert str(tmp_path / 'profile') in said[-1]
  text = (tmp_path / 'profile' / 'steps_5-6.txt').read_text()
  assert text.splitlines() == said[:-1]
  (file,) = (tmp_path / 'profile').rglob('*.xplane.pb')
  # Of two steps alone: each has a product.
  ops = [o for o in profile_ops.read(file) if o.program == 'jit_step']
  names = [o.name for o in ops]
  assert ops
  assert all(names.count(name) == 2 for name in names), names


def test_the_step_before_ends_before_the_profile_begins(tmp_path):
  profiler = Profiler(Profile(at=3), tmp_path, print, 20)
  seen = []

  class Pending:
    def block_until_ready(self):
      seen.append(profiler._open)

  for at in (1, 2, 3):
    profiler.before(at, Pending())
  profiler.close()
  assert seen == [None]


def test_steps_that_compile_are_not_profiled(tmp_path):
  _, said = profiled(tmp_path, 7, 10, at=8, steps=1)
  assert said[0].startswith('Step 9 took ')
  assert profiled(tmp_path / 'late', 9, 14, at=8, steps=1)[1] == []
  (line,) = profiled(tmp_path / 'end', 18, 20, at=18, steps=2)[1]
  assert 'too few' in line
  assert not (tmp_path / 'end').exists()


def test_pauses_are_no_time_of_the_steps(tmp_path, monkeypatch):
  """Of 7.2 s, 7 are a pause; another was before the profile."""
  clock = types.SimpleNamespace(perf_counter=iter([100, 107.2, 108]).__next__)
  monkeypatch.setattr(profile, 'time', clock)
  said = []
  profiler = Profiler(Profile(at=3, steps=2), tmp_path, said.append, 20)
  for at in range(1, 5):
    profiler.before(at, None)
    profiler.after(at, step(jnp.ones((2, 2))))
    profiler.pause(7.0 if at == 3 else 50.0)
  assert said[0].startswith('Steps 3 to 4 took 100 ms each. 7 s of evaluations')


def test_a_profile_that_is_not_ended_leaves_nothing(tmp_path):
  profiler, said = profiled(tmp_path, 1, 4, at=4, steps=5)
  local = pathlib.Path(profiler._local)
  assert local.exists()
  profiler.close()
  profiler.close()
  assert not local.exists()
  assert len(said) == 1
  assert 'stopped before step 8' in said[0]
  # The next one can begin.
  assert profiled(tmp_path, 1, 3, at=3, steps=1)[1]


def test_steps_behind_the_end_are_refused():
  TrainConfig(steps=20, profile=Profile(at=16)).check()
  with pytest.raises(errors.InputError, match='end after train.steps=20'):
    TrainConfig(steps=20, profile=Profile(at=17)).check()


def test_a_training_step_names_its_parts():
  """Forward and backward, but for images: no part is without a name."""
  moe = {'num_experts': 4, 'num_shared': 1}
  config = tiny.model_config(num_layers=2, first_dense=1, moe=moe)
  model = tiny.model(config, tiny.mesh())
  transform = optimizer.make(OptimizerConfig(), 10, model.decays)
  run = step_maker.make(
    model, transform, OptimizerConfig(), TrainConfig(steps=10), seed=0
  )
  # An evaluation between the steps is not taken for one.
  assert f'jit_{run.__name__}' == profile_summary.STEP
  assert perplexity.make_step(model).__name__ == 'evaluate'
  batch = tiny.batch([[5, 7]])
  lowered = run.lower(states.abstract(model, transform), batch)
  text = lowered.as_text(debug_info=True)
  assert f'module @{profile_summary.STEP} ' in text
  found = re.findall(r'loc\("([^"]*)"', text)
  named = {profile_summary._place('', name) for name in found}
  assert {part for part, _ in named} - {'other'} == {*scopes.PARTS} - {'images'}
  backward = {part for part, moment in named if moment == 'backward'}
  assert backward >= {'attention', 'router', 'experts', 'head'}


def test_moving_rows_is_named_so_in_the_backward_pass_too():
  def moved(x_TD):
    expert_A, token_A = jnp.array([1, 0, 1]), jnp.arange(3)
    grouping = permute.group(expert_A, 2, 1)
    return (permute.gather(x_TD, token_A, grouping, 1) ** 3).sum()

  lowered = jax.jit(jax.grad(moved)).lower(jnp.ones((3, 2)))
  found = re.findall(r'loc\("([^"]*)"', lowered.as_text(debug_info=True))
  named = {profile_summary._place('', name) for name in found}
  assert {('dispatch', 'forward'), ('dispatch', 'backward')} <= named


def test_names_of_parts_are_read_from_names_of_operations():
  name = 'jit(step)/transpose(jvp())/while/body/experts/dispatch/gather'
  assert scopes.part_of(name) == 'dispatch'
  assert scopes.part_of('jit(step)/transpose(jvp(head))/dot_general') == 'head'
  assert scopes.part_of('jit(step)/jvp()/jit(attention_mask)/head') == ''
  with pytest.raises(ValueError, match='head'):
    scopes.part('heads')
