"""The benchmark of a training step: small, and beside a made-up peer."""

import ast
import json
import pathlib
import re
import resource
import subprocess
import sys
import types

import jax
import pytest
from helpers import shapes

from benchmarks import accelerator, peers, standard, timing
from benchmarks import data as data_lib
from benchmarks import step as step_lib
from moejax.core import errors, exits
from moejax.plan import count

# How often each is in a step of two layers.
PARTS = {
  'training step': 1,
  'attention': 2,
  'its core': 2,
  'experts layer': 2,
  'dense layer, same active': 0,
  'head and loss': 1,
  'optimiser': 1,
}


def _call(capsys, *flags):
  code = exits.call(step_lib.main, flags)
  out, err = capsys.readouterr()
  return code, out.splitlines(), err.splitlines()


@pytest.fixture
def small(monkeypatch):
  """A shape that compiles in seconds."""
  monkeypatch.setattr(standard, 'STANDARD', shapes.SMALL)
  return shapes.SMALL


@pytest.mark.soak
def test_every_part_is_timed_and_set_beside_the_peak(
  small, capsys, monkeypatch
):
  seconds = {}
  real = timing.best

  def alternate(parts, rounds):
    assert rounds == 2
    best = real(parts, rounds)
    names = [part.name.strip() for part in parts]
    seconds.update(zip(names, best, strict=True))
    return best

  monkeypatch.setattr(timing, 'best', alternate)
  code, out, err = _call(capsys, '--steps=2')
  assert (code, err) == (0, [])
  assert set(seconds) == {'peak', *PARTS}
  assert min(seconds.values()) > 0
  peak = 2 * 1024**3 / seconds['peak']
  assert f'float32  matmul of 1024 cubed  {peak / 1e9:6.0f} GFLOP/s' in out[0]
  step = seconds['training step']
  assert f'{4 * 16 / step:6.0f} tokens/s; compiles in ' in out[1]
  assert re.search(r'compiles in \d+\.\d s; peak memory .* \d+ MB', out[1])
  # Forward and backward are six times the weights times the tokens, by hand;
  # k and v are as wide as q.
  tokens, width = 4 * 16, 16
  core = 3 * 4 * tokens * 16 * 16
  flops = {
    'training step': count.flops_per_token(small.config, 16) * tokens,
    'attention': 6 * tokens * 4 * width * 16 + core,
    'its core': core,
    'experts layer': 6 * tokens * 3 * width * (2 + 1) * 8,
    'dense layer, same active': 6 * tokens * 3 * width * (2 + 1) * 8,
    'head and loss': 6 * tokens * width * 64,
    'optimiser': 0,
  }
  share = flops['training step'] / step / peak
  assert f'{share:6.1%} of the peak' in out[2]
  rows = {line[:28].strip(): line[28:].split() for line in out[6:-2]}
  assert tuple(rows) == (*PARTS, 'all else')
  for name in PARTS:
    ms, times, _, share = rows[name]
    assert ms == f'{seconds[name] * 1e3:.1f}'
    assert int(times) == PARTS[name]
    assert share == f'{flops[name] / seconds[name] / peak:.1%}'
  known = sum(
    times * seconds[name]
    for name, times in PARTS.items()
    if name not in {'training step', 'its core'}
  )
  assert rows['all else'] == [f'{(step - known) * 1e3:.1f}']
  ratio = seconds['experts layer'] / seconds['dense layer, same active']
  assert out[-1] == (
    f'experts over a dense layer of the same active width: {ratio:.2f}'
  )


@pytest.mark.soak
def test_one_side_prints_json_alone(small, capsys):
  code, out, _ = _call(capsys, '--side=moejax', '--steps=1')
  (line,) = out
  assert code == 0
  found = json.loads(line)
  assert len(found['seconds']) == 1
  assert found['seconds'][0] > 0


# What one side is to print; by round, in this order.
OURS = [[0.5, 0.2], [0.4, 0.3]]
THEIRS = [[0.9, 0.8], [0.6, 1.0]]
FAKE = """
import json, sys
print('noise before')
seconds = [1.0] * json.loads(sys.argv[1])['steps']
print(json.dumps({'seconds': seconds, 'peak_mb': 7, 'what': 'W'}))
"""


def test_both_sides_run_alternately_and_the_ratio_is_right(capsys, monkeypatch):
  peer = peers.Peer((), 'program')
  monkeypatch.setitem(peers.PEERS, 'fake', peer)
  started = []

  def side(command_line):
    started.append(command_line)
    ours = '--side=moejax' in command_line
    seconds = (OURS if ours else THEIRS)[(len(started) - 1) // 2]
    return {'seconds': seconds, 'peak_mb': 123.4, 'what': '' if ours else 'W'}

  monkeypatch.setattr(step_lib, 'side', side)
  code, out, err = _call(capsys, '--peer=fake', '--rounds=2', '--steps=2')
  assert (code, err) == (0, [])
  ours = [sys.executable, '-m', 'benchmarks.step', '--side=moejax']
  ours += ['--steps=2', f'--unroll={standard.STANDARD.config.scan_unroll}']
  ours += ['--dtype=float32']
  task = peers.task(standard.STANDARD, 2, 'cpu')
  theirs = [sys.executable, '-c', 'program', task]
  assert started == [ours, theirs, ours, theirs]
  # 2048 tokens: in 0.2 s are 10240, in 0.35 s 5851.
  assert re.sub(' +', ' ', out[0]) == (
    'round 1 moejax best 10240, median 5851 tokens/s, peak memory 123 MB '
  )
  assert out[1].startswith('round 1 fake')
  assert out[3].endswith('  W')
  # 0.6 / 0.2; the medians are 0.85 and 0.35.
  assert out[4] == (
    'moejax / fake: best 3.00, median 2.43 (2 rounds of 2 steps each, float32, '
    f'JAX {jax.__version__})'
  )


def test_a_peer_is_a_process_whose_last_line_counts():
  found = step_lib.side([sys.executable, '-c', FAKE, '{"steps": 3}'])
  assert found == {'seconds': [1.0] * 3, 'peak_mb': 7, 'what': 'W'}


def test_a_peer_is_given_the_same_sizes():
  """By hand: 2 of the experts of width 8, and a shared one as wide."""
  shape = shapes.SMALL.with_model(dtype='bfloat16')
  task = json.loads(peers.task(shape, 5, 'cuda'))
  assert task.pop('model') == {
    'vocab_size': 64,
    'hidden_size': 16,
    'num_hidden_layers': 2,
    'num_attention_heads': shape.config.num_heads,
    'num_key_value_heads': shape.config.num_heads,
    'intermediate_size': 24,
    'moe_intermediate_size': 8,
    'shared_expert_intermediate_size': 8,
    'num_experts': shape.config.moe.num_experts,
    'num_experts_per_tok': 2,
    'max_position_embeddings': 16,
  }
  assert task == {
    'steps': 5,
    'device': 'cuda',
    'dtype': 'bfloat16',
    'batch': [4, 16],
  }


def _refused(capsys, *flags):
  code, out, err = _call(capsys, *flags)
  assert code == exits.BAD_INPUT
  assert out == []
  (line,) = err
  assert line.startswith('error: ')
  return line


def test_a_peer_that_is_not_installed(capsys, monkeypatch):
  peer = peers.Peer(('json', 'no_such_torch'), FAKE)
  monkeypatch.setitem(peers.PEERS, 'fake', peer)
  monkeypatch.setattr(step_lib, 'side', None)  # nothing is to be started
  line = _refused(capsys, '--peer=fake')
  assert '--peer=fake needs no_such_torch: install them' in line
  assert '--peer_python' in line


def test_a_peer_that_fails_is_one_line(capsys, monkeypatch):
  peer = peers.Peer((), 'raise ImportError("no torch")')
  monkeypatch.setitem(peers.PEERS, 'fake', peer)
  real = step_lib.side

  def side(command_line):
    ours = '--side=moejax' in command_line
    return {'seconds': [1.0], 'peak_mb': 1} if ours else real(command_line)

  monkeypatch.setattr(step_lib, 'side', side)
  code, _, err = _call(capsys, '--peer=fake')
  assert code == exits.BAD_INPUT
  (line,) = err
  assert line.endswith('ImportError: no torch')


@pytest.mark.parametrize(
  ('command', 'python', 'words'),
  [
    (step_lib.main, '/no/such/python', 'cannot be run: No such file'),
    (step_lib.main, '/', 'cannot be run: Permission denied'),
    (step_lib.main, 'false', 'is not a Python: it ended with code 1 (no wo'),
    (step_lib.main, 'echo', 'is not a Python: it ended with code 0 ('),
    (step_lib.main, '', '--peer=fake needs no_such_torch, which --peer_pyt'),
    (data_lib.main, '/no/such/python', 'cannot be run: No such file'),
    (accelerator.main, '/no/such/python', 'cannot be run: No such file'),
  ],
)
def test_the_python_of_a_peer_is_tried_before_anything_is_measured(
  command, python, words, tmp_path, monkeypatch, capsys
):
  peer = peers.Peer(('json', 'no_such_torch'), FAKE)
  monkeypatch.setitem(peers.PEERS, 'fake', peer)
  monkeypatch.setattr(step_lib, 'side', None)
  monkeypatch.setattr(data_lib, 'write_text', None)
  monkeypatch.setattr(accelerator, '_process', None)
  if not python:
    python = tmp_path / 'python'  # another than the one that runs the test
    python.symlink_to(sys.executable)
  flags = [f'--peer_python={python}']
  if command is step_lib.main:
    flags.append('--peer=fake')
  if command is accelerator.main:
    flags.append(f'--out={tmp_path / "out"}')
  code = exits.call(command, flags)
  out, err = capsys.readouterr()
  assert (code, out) == (exits.BAD_INPUT, '')
  (line,) = err.splitlines()
  assert words in line
  assert f'--peer_python={python}' in line


@pytest.mark.parametrize(
  ('flag', 'words'),
  [
    ('--steps=0', '--steps=0 must be 1 or more'),
    ('--rounds=0', '--rounds=0 must be 1 or more'),
    ('--rounds=-2', '--rounds=-2 must be 1 or more'),
    ('--steps=some', '--steps=some is not a whole number'),
    ('--unroll=0', 'scan_unroll=0'),
    ('--peer=nobody', 'transformers'),
    ('--config.seed=1', 'takes no --config.*'),
  ],
)
def test_wrong_flags_are_one_line(flag, words, small, capsys):
  assert words in _refused(capsys, flag)


@pytest.mark.parametrize('name', sorted(peers.PEERS))
def test_programs_of_peers_are_python_and_know_macos(name):
  program = peers.PEERS[name].program
  ast.parse(program)
  assert "2**20 if sys.platform == 'darwin' else 2**10" in program


# Packages that stand in for MaxText and what it needs. The config prints its
# options. The state counts the steps, and step i takes i + 1 seconds of a clock
# that nothing else moves.
MAXTEXT = {
  'jax.py': """
import contextlib
__version__ = '0.1'
set_mesh = contextlib.nullcontext
""",
  'flax/__init__.py': '',
  'flax/core/__init__.py': '',
  'flax/nnx.py': """
def split(state):
  return 'graph', state
""",
  'flax/core/spmd.py': """
import contextlib
logical_axis_rules = contextlib.nullcontext
""",
  'maxtext-9.9.dist-info/METADATA': 'Name: maxtext\nVersion: 9.9\n',
  'maxtext/__init__.py': '',
  'maxtext/configs/pyconfig.py': """
import json, types
def initialize(argv, **options):
  print(json.dumps([argv, options]))
  return types.SimpleNamespace(logical_axis_rules=())
""",
  'maxtext/trainers/pre_train/train.py': """
import time
now = 0
time.perf_counter = lambda: now
def train_step(state, batch):
  global now
  assert batch == 'batch'
  state += 1
  now += state
  return state, {'scalar': {'learning/loss': 1.5}}
""",
  'maxtext/utils/sharding.py': """
def maybe_update_params_sharding_with_opt(config, shardings):
  return 'params', shardings
""",
  'maxtext/utils/train_utils.py': """
import types
loader = types.SimpleNamespace(load_next_batch=lambda: 'batch')
def setup_train_loop(config, recorder):
  return 0, 1, 'shardings', 3, 'mesh', 5, 6, loader, 8, 9, 0
def jit_train_and_eval_step(
  config, graph, mesh, state, shardings, train_step, params_shardings
):
  arguments = graph, mesh, shardings, params_shardings
  assert arguments == ('graph', 'mesh', 'shardings', 'params')
  compiled = types.SimpleNamespace(compile=lambda: train_step)
  return types.SimpleNamespace(lower=lambda *_: compiled), None
""",
}


@pytest.fixture
def maxtext(tmp_path, monkeypatch):
  """A made-up MaxText that the peer's process finds."""
  for name, text in MAXTEXT.items():
    path = tmp_path / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
  monkeypatch.setenv('PYTHONPATH', str(tmp_path))
  return tmp_path


def _maxtext(device, *flags, shape=shapes.SMALL):
  """The command line that times 3 steps of the peer MaxText."""
  program = peers.PEERS['maxtext'].program
  return [sys.executable, *flags, '-c', program, peers.task(shape, 3, device)]


def test_maxtext_trains_the_same_sizes_and_its_warm_up_is_not_timed(maxtext):
  """By hand: 2 of the experts of width 8, and a shared one as wide."""
  shape = shapes.SMALL.with_model(dtype='bfloat16')
  done = subprocess.run(
    _maxtext('cpu', shape=shape), capture_output=True, text=True, check=True
  )
  first, last = map(json.loads, done.stdout.strip().splitlines())
  (_, config_file), options = first
  assert pathlib.Path(config_file) == maxtext / 'maxtext/configs/base.yml'
  model = shape.config
  expected = {
    'vocab_size': 64,
    'base_emb_dim': 16,
    'base_num_decoder_layers': 2,
    'first_num_dense_layers': 0,
    'base_num_query_heads': model.num_heads,
    'base_num_kv_heads': model.num_heads,
    'v_head_dim': 16 // model.num_heads,
    'num_experts': model.moe.num_experts,
    'num_experts_per_tok': 2,
    'base_moe_mlp_dim': 8,
    'shared_experts': 1,
    'per_device_batch_size': 4,
    'max_target_length': 16,
    'dtype': 'bfloat16',
    'weight_dtype': 'float32',
    'gradient_clipping_threshold': 1.0,
    'capacity_factor': -1.0,
  }
  assert {name: options[name] for name in expected} == expected
  heads = options['qk_nope_head_dim'] + options['qk_rope_head_dim']
  assert heads == options['v_head_dim']
  # The first two steps, of 1 and 2 seconds, are not timed.
  assert last['seconds'] == [3, 4, 5]
  assert last['peak_mb'] > 1
  assert 'maxtext 9.9, jax 0.1' in last['what']


def test_maxtext_is_refused_where_it_is_not_measured():
  with pytest.raises(errors.InputError, match='on CPU alone, not on cuda'):
    step_lib.side(_maxtext('cuda'))


def test_a_python_without_maxtext_is_one_line():
  with pytest.raises(errors.InputError, match="No module named 'maxtext'"):
    step_lib.side(_maxtext('cpu', '-I', '-S'))  # without site-packages


@pytest.mark.parametrize(('platform', 'unit'), [('linux', 1024), ('darwin', 1)])
def test_memory_is_in_bytes_on_macos(platform, unit, monkeypatch):
  monkeypatch.setattr(sys, 'platform', platform)
  usage = types.SimpleNamespace(ru_maxrss=300 * 2**20 // unit)
  monkeypatch.setattr(resource, 'getrusage', lambda _: usage)
  assert timing.peak_mb() == 300


def test_a_side_that_there_is_not_is_said_before_anything_is_timed(capsys):
  assert exits.call(step_lib.main, ['--side=foo']) == exits.BAD_INPUT
  assert "'foo' (choose from" in capsys.readouterr().err
