"""The loop, with a step that computes nothing: order, boundaries, stopping."""

import contextlib
import dataclasses
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from moejax.core import errors
from moejax.train import loop
from moejax.train.config import TrainConfig
from moejax.train.profile import Profiler
from moejax.train.state import State


class Recorder:
  """Everything the loop asks for, in order."""

  def __init__(self):
    self.events = []
    self.shown = []

  def save(self, step, state, extra):
    self.events.append(('save', step, int(state.step), extra))

  def keep(self, step, weights, extra):
    self.events.append(('keep', step, weights, extra))

  def check(self):
    pass

  def wait(self):
    self.events.append(('wait',))

  def is_best(self, step, value):
    return value < min([e[2] for e in self.events if e[0] == 'best'] or [9e9])

  def mark_best(self, step, value):
    self.events.append(('best', step, value))

  def write(self, step, values):
    self.events.append(('write', step, dict(values)))

  def update(self, step, values, load_NE):
    self.shown.append((step, values, load_NE))

  def kinds(self, *kinds):
    return [(e[0], e[1]) for e in self.events if e[0] in kinds]


def _state(step=0):
  zero = jnp.zeros((), jnp.int32)
  return State(jnp.int32(step), {}, {}, zero, zero)


def _step(state, batch, loss=None, stats=None):
  new = dataclasses.replace(state, step=state.step + 1)
  metrics = {
    'loss': batch * 1.0 if loss is None else loss(int(new.step)),
    'gradient_norm': jnp.ones(()),
    'bad_steps': jnp.zeros(()),
  }
  return new, metrics | ({} if stats is None else {'stats': stats})


def _allowed(step):
  """The step, with transfers that only a made-up step needs."""

  def run(state, batch):
    with jax.transfer_guard('allow'):
      return step(state, batch)

  return run


def _run(
  recorder,
  step=_step,
  start=0,
  stop=lambda step: None,
  hooks=(),
  periodic_hooks=(),
  allow=True,
  **config,
):
  defaults = {
    'steps': 10,
    'log_every': 2,
    'checkpoint_every': 4,
    'eval_every': 5,
  }

  @contextlib.contextmanager
  def batches(first):
    yield (jax.device_put(np.float32(i)) for i in itertools.count(first))

  job = loop.LoopInputs(
    config=TrainConfig(**{**defaults, **config}),
    step=_allowed(step) if allow else step,
    batches=batches,
    checkpoints=recorder,
    writer=recorder,
    display=recorder,
    tokens_per_batch=100,
    flops_per_token=1e9,
    extra={'config': 'x'},
    hooks=hooks,
    periodic_hooks=periodic_hooks,
    stop_requested=stop,
    profiler=getattr(recorder, 'profiler', Profiler()),
  )
  return loop.run(job, _state(start))


def test_every_step_is_shown_and_each_nth_written_once_in_order():
  recorder = Recorder()
  result = _run(recorder)
  assert int(result.state.step) == 10
  assert result.interrupted is None
  assert [s for s, _, _ in recorder.shown] == list(range(1, 11))
  losses = [
    (e[1], e[2]['loss'])
    for e in recorder.events
    if e[0] == 'write' and 'loss' in e[2]
  ]
  # Step n reads batch n - 1, whose value is n - 1.
  assert losses == [(2, 1.0), (4, 3.0), (6, 5.0), (8, 7.0), (10, 9.0)]


def test_what_a_step_wrote_is_written_before_its_checkpoint():
  recorder = Recorder()
  _run(recorder)
  order = recorder.kinds('write', 'save')
  assert order.index(('write', 4)) < order.index(('save', 4))
  assert recorder.kinds('save') == [('save', 4), ('save', 8), ('save', 10)]
  assert all(e[2] == e[1] for e in recorder.events if e[0] == 'save')
  assert recorder.events[-1] == ('wait',)


def test_weights_are_kept_at_each_step_that_is_named_and_before_its_save():
  recorder = Recorder()
  _run(recorder, keep_checkpoints_at=(0, 3, 10), keep_checkpoints_every=4)
  assert recorder.kinds('keep', 'save') == [
    ('keep', 0),
    ('keep', 3),
    ('keep', 4),
    ('save', 4),
    ('keep', 8),
    ('save', 8),
    ('keep', 10),
    ('save', 10),
  ]
  assert all(e[2] == {} for e in recorder.events if e[0] == 'keep')
  assert recorder.events[0] == ('keep', 0, {}, {'config': 'x', 'tokens': {}})


def test_a_resumed_run_keeps_the_weights_that_it_starts_from():
  """The config of the run before did not name that step."""
  recorder = Recorder()
  _run(recorder, start=4, keep_checkpoints_at=(0, 4), keep_checkpoints_every=5)
  assert recorder.kinds('keep') == [('keep', 4), ('keep', 5), ('keep', 10)]


def test_every_nth_step_does_not_name_the_start():
  recorder = Recorder()
  _run(recorder, keep_checkpoints_every=4)
  assert recorder.kinds('keep') == [('keep', 4), ('keep', 8)]


def test_no_weights_are_kept_by_default():
  recorder = Recorder()
  _run(recorder)
  assert recorder.kinds('keep') == []


@pytest.mark.parametrize(
  ('keys', 'line'),
  [
    (
      {'keep_checkpoints_at': (0, 11), 'steps': 10},
      'train.keep_checkpoints_at has 11, but the run ends after train.steps=10',
    ),
    (
      {'keep_checkpoints_at': (5, -1)},
      r'keep_checkpoints_at=-1 must be from 0 .*0: initial weights',
    ),
    (
      {'keep_checkpoints_every': -1},
      r'keep_checkpoints_every=-1 must be .* \(0: none\)',
    ),
  ],
)
def test_a_step_that_cannot_be_kept_is_said(keys, line):
  with pytest.raises(errors.InputError, match=line):
    TrainConfig(**keys).check()


def test_evaluations_may_have_periods_of_their_own():
  recorder, calls = Recorder(), []

  def hook(name):
    def evaluate(step, state):
      calls.append((name, step, int(state.step)))
      return {f'eval/{name}': float(step)}

    return evaluate

  _run(
    recorder,
    hooks=[hook('loss')],
    periodic_hooks=[(3, hook('often')), (7, hook('rare'))],
    checkpoint_every=100,
  )
  steps = lambda name: [s for n, s, at in calls if n == name and s == at]
  assert steps('loss') == [5, 10]
  assert steps('often') == [3, 6, 9, 10]
  assert steps('rare') == [7, 10]
  written = [
    e[1] for e in recorder.events if e[0] == 'write' and 'eval/often' in e[2]
  ]
  assert written == [3, 6, 9, 10]
  # An evaluation is no reason to save.
  assert [step for kind, step in recorder.kinds('save')] == [5, 10]


def test_a_resumed_loop_goes_on_with_the_batch_of_its_step():
  recorder = Recorder()
  _run(recorder, start=7)
  assert [s for s, _, _ in recorder.shown] == [8, 9, 10]
  assert recorder.shown[0][1]['loss'] == 7.0


def test_hooks_run_when_due_and_mark_the_best():
  recorder = Recorder()
  hook = lambda step, state: {'eval/loss': float(step + int(state.step))}
  _run(recorder, hooks=[hook], checkpoint_every=5)
  found = [e[1:] for e in recorder.events if e[0] == 'best']
  assert found == [(5, 10.0), (10, 20.0)]
  written = [e[2] for e in recorder.events if e[0] == 'write']
  assert {'eval/loss': 10.0} in written


@pytest.mark.parametrize(
  ('save_best', 'saved'), [(True, [2, 4, 10]), (False, [5, 10])]
)
def test_the_best_evaluation_is_saved_wherever_it_falls(save_best, saved):
  losses = {2: 5.0, 4: 3.0, 6: 4.0, 8: 3.5, 10: 4.5}
  recorder = Recorder()
  hook = lambda step, state: {'eval/loss': losses[step]}
  every = {'checkpoint_every': 10 if save_best else 5, 'eval_every': 2}
  _run(recorder, hooks=[hook], save_best=save_best, **every)
  assert [step for _, step in recorder.kinds('save')] == saved
  # A loss is noted of a step that is saved, and of no other.
  marked = {e[1]: e[2] for e in recorder.events if e[0] == 'best'}
  assert marked == {s: losses[s] for s in saved if s in losses}


def test_a_signal_saves_after_the_step_and_ends():
  recorder = Recorder()
  answers = iter([None, None, 'SIGTERM'])
  result = _run(recorder, stop=lambda step: next(answers))
  assert result.interrupted == 'SIGTERM'
  assert int(result.state.step) == 3
  assert recorder.kinds('save') == [('save', 3)]


def test_a_signal_during_the_last_step_is_a_finished_run():
  recorder = Recorder()
  result = _run(recorder, steps=1, stop=lambda step: 'SIGINT')
  assert result.interrupted is None


def test_stops_after_so_many_bad_steps_and_names_step_and_metric():
  def step(state, batch):
    new, metrics = _step(state, batch)
    bad = max(int(new.step) - 4, 0)
    metrics['bad_steps'] = jnp.asarray(float(bad))
    metrics['gradient_norm'] = jnp.where(bad > 0, jnp.nan, 1.0)
    return new, metrics

  recorder = Recorder()
  with pytest.raises(
    errors.StoppedError, match='^gradient_norm was not finite at step 7,'
  ):
    _run(recorder, step, max_bad_steps=3, checkpoint_every=100)
  # Known one step late: step 8 was under way, and the state after it is saved.
  assert recorder.shown[-1][0] == 8
  assert recorder.kinds('save') == [('save', 8)]


def test_compilation_is_in_no_throughput():
  recorder = Recorder()
  _run(recorder, peak_tflops=2.0)
  speeds = ['time/tokens_per_s' in values for _, values, _ in recorder.shown]
  assert speeds == [False] * loop.UNTIMED_STEPS + [True] * 8
  values = recorder.shown[-1][1]
  # 100 tokens of 1 GFLOP against 2 TFLOP/s.
  assert values['time/model_flops_utilisation'] == pytest.approx(
    values['time/tokens_per_s'] / 2000
  )


def test_load_is_written_every_so_often_and_shown_always():
  stats = {
    'count_E': jnp.array([[3.0, 1.0], [2.0, 2.0]]),
    'dropped': jnp.zeros(2),
    'entropy': jnp.zeros(2),
    'logit': jnp.zeros(2),
  }
  recorder = Recorder()
  step = lambda state, batch: _step(state, batch, stats=stats)
  _run(recorder, step, load_every=4)
  with_load = [
    e[1] for e in recorder.events if e[0] == 'write' and 'moe/load' in e[2]
  ]
  assert with_load == [4, 8]
  np.testing.assert_array_equal(recorder.shown[0][2], [[1.5, 0.5], [1, 1]])


@pytest.mark.parametrize(
  ('log_every', 'load_every'), [(2, 3), (7, 2), (100, 5)]
)
def test_scalars_and_load_are_written_each_at_its_own_steps(
  log_every, load_every
):
  stats = {
    'count_E': jnp.array([[3.0, 1.0]]),
    'dropped': jnp.zeros(1),
    'entropy': jnp.zeros(1),
    'logit': jnp.zeros(1),
  }
  recorder = Recorder()
  step = lambda state, batch: _step(state, batch, stats=stats)
  _run(recorder, step, log_every=log_every, load_every=load_every)
  written = [(e[1], e[2]) for e in recorder.events if e[0] == 'write']
  steps = lambda name: [step for step, values in written if name in values]
  multiples = lambda n: [s for s in range(1, 11) if s % n == 0]
  assert steps('moe/load') == multiples(load_every)
  assert steps('loss') == sorted({*multiples(log_every), 10})


def test_implicit_transfers_are_refused_in_the_loop():
  jitted = jax.jit(lambda x: x + 1)

  def step(state, batch):
    jitted(np.float32(1))  # a numpy array from the host
    return _allowed(_step)(state, batch)

  with pytest.raises(Exception, match='[Dd]isallowed host-to-device'):
    _run(Recorder(), step, allow=False)


@pytest.mark.parametrize(
  ('key', 'words'),
  [
    ({'micro_batches': 3}, 'micro_batches=3'),
  ],
)
def test_wrong_numbers_are_refused(key, words):
  with pytest.raises(errors.InputError, match=words):
    TrainConfig(**key).check()


class Seen:
  """A profiler that writes down its calls."""

  def __init__(self):
    self.calls = []

  def before(self, step, pending):
    self.calls.append(('before', step, pending and pending[0]))

  def step(self, step):
    self.calls.append(('step', step))
    return contextlib.nullcontext()

  def after(self, step, results):
    self.calls.append(('after', step, float(results['loss'])))
    return 0.0

  def pause(self, seconds):
    self.calls.append(('pause', seconds > 0))


def test_a_profiler_sees_every_step_and_what_came_before():
  """With the batch of a step; before it, the results that are not fetched."""
  recorder = Recorder()
  recorder.profiler = seen = Seen()
  _run(recorder, steps=3, checkpoint_every=2)
  assert seen.calls == [
    *(('before', 1, None), ('step', 1), ('after', 1, 0.0)),
    *(('before', 2, 1), ('step', 2), ('after', 2, 1.0), ('pause', True)),
    # The boundary after step 2 has fetched all.
    *(('before', 3, None), ('step', 3), ('after', 3, 2.0), ('pause', True)),
  ]
