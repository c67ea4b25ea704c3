"""The benchmarks of a layer with experts: at a small shape, with few sides."""

import importlib.util
import math
import subprocess
import sys
import types

import jax
import pytest

from benchmarks import (
  expert_parallel,
  experts,
  layer,
  routers,
  standard,
  timing,
)
from benchmarks import parts as parts_lib
from moejax.core import exits
from moejax.moe.config import MoEConfig
from moejax.moe.expert_parallel import EXPERT_PARALLEL
from moejax.moe.routers import ROUTERS

ROWS, LENGTH, WIDTH, EXPERTS, HIDDEN, K = 8, 4, 16, 16, 8, 2
TOKENS = ROWS * LENGTH


@pytest.fixture
def shape(monkeypatch):
  """A shape that compiles in seconds."""
  config = standard.STANDARD.with_model(
    vocab_size=64,
    max_length=LENGTH,
    width=WIDTH,
    num_heads=2,
    head_dim=8,
    moe=MoEConfig(
      num_experts=EXPERTS,
      expert_width=HIDDEN,
      num_shared=1,
      router=ROUTERS['top_k'](k=K),
    ),
  ).config
  one = standard.Shape(config, ROWS, LENGTH)
  monkeypatch.setattr(standard, 'STANDARD', one)
  return one


def _call(main, capsys, *flags):
  code = exits.call(main, flags)
  out, err = capsys.readouterr()
  return code, out.splitlines(), err.splitlines()


def _timed(monkeypatch, *seconds):
  """Makes what was measured be `seconds`, in this order; returns the parts."""
  seen = []

  def alternate(parts, rounds):
    for part in parts:
      jax.eval_shape(part.run, *part.arguments)
    seen.append(parts)
    return seconds[len(seen) - 1]

  monkeypatch.setattr(timing, 'alternate', alternate)
  return seen


def test_sides_run_in_turn_and_the_first_rounds_do_not_count(monkeypatch):
  clock, ran = [0.0], []
  # In seconds; the first two rounds compile and warm up.
  took = {'a': [9, 9, 1, 2], 'b': [9, 9, 4, 3]}

  def part(name):
    def run(argument):
      assert argument == name
      clock[0] += took[name][ran.count(name)]
      ran.append(name)

    return timing.Part(name, run, (name,))

  fake = types.SimpleNamespace(perf_counter=lambda: clock[0])
  monkeypatch.setattr(timing, 'time', fake)
  seconds = timing.alternate([part('a'), part('b')], 2)
  assert seconds == [[1, 2], [4, 3]]
  assert ran == ['a', 'b'] * 4


def test_ratios_of_the_best_and_of_each_round():
  # By hand: 2 / 1; the rounds' own are 3, 2 and 0.5.
  assert timing.ratios([3.0, 2.0, 4.0], [1.0, 1.0, 8.0]) == (2.0, 2.0)
  assert timing.ratios([3.0, 2.0], [1.0, 8.0])[1] == (3 + 0.25) / 2


def test_the_layer_over_a_dense_one(shape, capsys, monkeypatch):
  _timed(monkeypatch, [[0.004, 0.003], [0.002, 0.002]])
  code, out, err = _call(layer.main, capsys, '--rounds=2')
  assert (code, err) == (0, [])
  assert '16 experts of 8, 2 for a token and 1 shared' in out[0]
  assert out[2].split() == ['experts', 'layer', '3.00', '3.50']
  assert out[3].split()[-2:] == ['2.00', '2.00']
  assert out[4].startswith('experts over dense: 1.50 of best, 1.75 of each;')


def test_the_dense_layer_is_as_wide_as_what_a_token_passes(shape):
  assert shape.active_width == (K + 1) * HIDDEN
  _, (weights, _) = parts_lib.dense(shape)
  widths = {leaf.shape[-1] for leaf in jax.tree.leaves(weights)}
  assert widths == {(K + 1) * HIDDEN, WIDTH}


def test_time_per_token_by_number_of_experts(shape, capsys, monkeypatch):
  monkeypatch.setattr(experts, 'COUNTS', (8, 16, 32))
  times = [[0.001, 0.002], [0.002, 0.002], [0.004, 0.003]]
  (seen,) = [_timed(monkeypatch, times)]
  code, out, err = _call(experts.main, capsys, '--rounds=2')
  assert (code, err) == (0, [])
  rows = [line.split() for line in out[2:5]]
  # 1 ms for 32 tokens is 31.25 us for one.
  assert rows[0] == ['8', '1.00', '1.50', '31.25', '0.50', '0.75']
  assert rows[1][-2:] == ['1.00', '1.00']
  assert rows[2] == ['32', '3.00', '3.50', '93.75', '1.50', '1.75']
  assert out[5].startswith('from 16 to 32 experts: 1.50 times of best, 1.75')
  sizes = [
    max(leaf.shape[0] for leaf in jax.tree.leaves(part.arguments[0]['routed']))
    for part in seen[0]
  ]
  assert sizes == [8, 16, 32]


def test_the_routers_table_is_over_top_k(shape, capsys, monkeypatch):
  few = {name: ROUTERS[name] for name in ('hash', 'switch', 'top_k')}
  monkeypatch.setattr(routers, 'ROUTERS', few)
  alone = [[0.002], [0.001], [0.003]]
  whole = [[0.010], [0.005], [0.020]]
  _timed(monkeypatch, alone, whole)
  code, out, err = _call(routers.main, capsys, '--rounds=1')
  assert (code, err) == (0, [])
  rows = [line.split() for line in out[3:6]]
  assert rows == [
    ['top_k', '2.00', '2.00', '1.00', '1.00', '10.00', '1.00', '1.00'],
    ['hash', '1.00', '1.00', '0.50', '0.50', '5.00', '0.50', '0.50'],
    ['switch', '1.00', '3.00', '1.50', '1.50', '20.00', '2.00', '2.00'],
  ]


@pytest.mark.soak
@pytest.mark.parametrize('name', sorted(ROUTERS))
def test_every_router_can_be_timed_alone(name, shape):
  one = shape.with_moe(router=ROUTERS[name]())
  run, arguments = routers._routing(one, jax.random.key(0))
  _, (of_weights, of_x) = jax.eval_shape(run, *arguments)
  assert of_x.shape == (TOKENS, WIDTH)
  assert jax.tree.structure(of_weights) == jax.tree.structure(arguments[0])


def test_the_least_by_hand(shape):
  # 2 of 16 experts, 2 on each of 8 devices. An expert is elsewhere in 7 of 8
  # cases: 2 * 7/8 assignments there and back, 16 numbers of 4 bytes.
  itself, together = expert_parallel.least(shape)
  assert itself == 2 * (2 * 7 / 8) * 64
  # Both on one device is one of 15 choices for the second, which saves a trip
  # if that device is another: 7/8.
  assert together == pytest.approx(2 * (2 * 7 / 8 - 7 / 8 / 15) * 64)


# Of each device: T tokens of 64 bytes, A assignments, 8 devices.
T, A, P, ROW = TOKENS // 8, TOKENS // 8 * K, 8, WIDTH * 4
CAPACITY = math.ceil(1.5 * A / P)
# By the formulas in the docstrings of `moe.expert_parallel`, forward.
BY_HAND = {
  'all_to_all, factor 1.5': {
    'all-to-all': 2 * (P - 1) * CAPACITY * ROW + (P - 1) * CAPACITY * 4
  },
  'all_to_all, factor 1': {
    'all-to-all': 2 * (P - 1) * (A // P) * ROW + (P - 1) * (A // P) * 4
  },
  'all_gather': {
    'all-gather': (P - 1) * T * ROW + (P - 1) * A * (4 + 4),
    'reduce-scatter': (P - 1) * T * ROW,
  },
  'gather_experts': {
    'all-gather': (P - 1) / P * EXPERTS * 3 * WIDTH * HIDDEN * 4
  },
}


@pytest.mark.soak
@pytest.mark.parametrize('name', BY_HAND)
def test_each_kind_of_expert_parallelism_moves_what_its_docstring_says(
  name, shape
):
  one = shape.with_moe(num_shared=0)
  kind = expert_parallel._kinds()[name]
  forward = expert_parallel.moved(one, kind, backward=False)
  small = forward.pop('all-reduce', 0)
  assert small * T < 1000  # the loss, and the statistics if they are kept
  assert {kind: sent * T for kind, sent in forward.items()} == BY_HAND[name]


def test_the_table_of_expert_parallelism_has_every_kind(
  shape, capsys, monkeypatch
):
  moved = lambda shape, expert_parallel, backward: {
    'all-to-all': 200.0 + 200 * backward
  }
  monkeypatch.setattr(expert_parallel, 'moved', moved)
  code, out, err = _call(expert_parallel.main, capsys)
  assert (code, err) == (0, [])
  rows = [
    line.split() for line in out if line.startswith(tuple(EXPERT_PARALLEL))
  ]
  assert {row[0].rstrip(',') for row in rows} == set(EXPERT_PARALLEL)
  _, least = expert_parallel.least(shape)
  for row in rows:
    ratio = f'{200 / least:.2f}'
    assert row[-5:] == ['200', ratio, '400', ratio, '400']


def test_with_one_device_expert_parallelism_is_compiled_elsewhere(
  shape, capsys, monkeypatch
):
  started = []

  def run(command_line, env, **_):
    started.append(command_line)
    assert '--xla_force_host_platform_device_count=8' in env['XLA_FLAGS']
    assert env['JAX_PLATFORMS'] == 'cpu'
    code = 0 if len(started) == 1 else 1
    return types.SimpleNamespace(
      returncode=code, stdout='the table\n', stderr='Trace\nKeyError: no\n'
    )

  monkeypatch.setattr(jax, 'devices', lambda: [None])
  monkeypatch.setattr(subprocess, 'run', run)
  code, out, err = _call(expert_parallel.main, capsys)
  assert (code, out, err) == (0, ['the table'], [])
  code, _, err = _call(expert_parallel.main, capsys)
  assert code == exits.BAD_INPUT
  assert err == ['error: expert_parallel on eight devices failed: KeyError: no']
  words = [
    sys.executable,
    '-m',
    'benchmarks.expert_parallel',
    '--rows=8',
  ]
  assert started == [words, words]


def test_the_curve_is_drawn(shape, capsys, monkeypatch, tmp_path):
  monkeypatch.setattr(experts, 'COUNTS', (8, 16))
  _timed(monkeypatch, [[0.001], [0.002]])
  path = tmp_path / 'curve.png'
  code, out, err = _call(experts.main, capsys, f'--png={path}')
  assert (code, err) == (0, [])
  assert f'drawn in {path}' in out
  assert path.read_bytes().startswith(b'\x89PNG')


@pytest.mark.parametrize(
  ('main', 'flag', 'words'),
  [
    (layer.main, '--rounds=0', '--rounds=0 must be 1 or more'),
    (routers.main, '--config.seed=1', 'takes no --config.*'),
    (layer.main, '--steps=1', 'unrecognized arguments: --steps=1'),
    (experts.main, '--png=x.pdf2', '--png=x.pdf2 must end in .png'),
    (expert_parallel.main, '--rows=0', '--rows=0 must be 1 or more'),
  ],
)
def test_wrong_flags_are_one_line(
  main, flag, words, shape, capsys, monkeypatch
):
  monkeypatch.setattr(importlib.util, 'find_spec', lambda name: name)
  code, out, err = _call(main, capsys, flag)
  assert (code, out) == (exits.BAD_INPUT, [])
  (line,) = err
  assert words in line


def test_a_picture_needs_matplotlib(shape, capsys, monkeypatch):
  monkeypatch.setattr(importlib.util, 'find_spec', lambda _: None)
  code, out, err = _call(experts.main, capsys, '--png=x.png')
  assert (code, out) == (exits.BAD_INPUT, [])
  (line,) = err
  assert "needs matplotlib: pip install 'moejax[plot]'" in line
