import json
import math

import jax.numpy as jnp
import numpy as np
import pytest
from helpers import events, far

from moejax.core import log


def write_steps(path, steps):
  writer = log.JsonlWriter(path)
  for step in steps:
    writer.write(step, {'loss': 1 / step, 'time/step_s': 0.5})
  writer.close()


def test_one_line_per_step_on_disk_at_once(tmp_path):
  path = tmp_path / 'new' / 'm.jsonl'
  writer = log.JsonlWriter(path)
  writer.write(3, {'loss': np.float32(0.5), 'load': np.array([[1, 2]])})
  assert path.read_text() == '{"step": 3, "loss": 0.5, "load": [[1, 2]]}\n'
  writer.write(4, {'loss': jnp.bfloat16(0.25)})
  assert path.read_text().endswith('\n{"step": 4, "loss": 0.25}\n')


def test_numbers_come_back_bit_for_bit(tmp_path):
  rng = np.random.default_rng(0)
  scalars = {
    str(i): rng.integers(0, 2**32, dtype=np.uint32).view(np.float32)
    for i in range(200)
  }
  array = rng.normal(size=(2, 3)).astype(np.float32)
  writer = log.JsonlWriter(tmp_path / 'm')
  writer.write(0, {**scalars, 'array': array, 'n': 2**62, 'x': math.pi})
  (record,) = log.read(tmp_path / 'm')
  for name, want in scalars.items():
    np.testing.assert_array_equal(np.float32(record[name]), want)
  np.testing.assert_array_equal(np.float32(record['array']), array)
  assert (record['n'], record['x']) == (2**62, math.pi)


def test_not_finite_is_valid_json_and_comes_back(tmp_path):
  writer = log.JsonlWriter(tmp_path / 'm')
  writer.write(
    1, {'a': np.nan, 'b': -np.inf, 'c': np.array([[np.inf, 1.0], [2.0, 3.0]])}
  )

  def refuse(text):
    raise AssertionError(f'{text} is not JSON')

  text = (tmp_path / 'm').read_text()
  record = json.loads(text, parse_constant=refuse)
  assert record == {
    'step': 1,
    'a': 'nan',
    'b': '-inf',
    'c': [['inf', 1.0], [2.0, 3.0]],
  }
  (record,) = log.read(tmp_path / 'm')
  assert math.isnan(record['a'])
  assert record['b'] == -math.inf
  assert record['c'] == [[math.inf, 1.0], [2.0, 3.0]]


def test_resumed_file_is_as_if_never_stopped(tmp_path):
  write_steps(tmp_path / 'a', range(1, 11))
  write_steps(tmp_path / 'b', range(1, 8))
  writer = log.JsonlWriter(tmp_path / 'b')
  writer.truncate_after(4)
  for step in range(5, 11):
    writer.write(step, {'loss': 1 / step, 'time/step_s': 0.5})
  assert (tmp_path / 'a').read_bytes() == (tmp_path / 'b').read_bytes()


@pytest.mark.parametrize('cut', [1, 5, 20])
def test_a_line_cut_by_a_kill_is_removed(tmp_path, cut):
  path = tmp_path / 'm'
  write_steps(path, [1, 2, 3])
  whole = path.read_bytes()
  path.write_bytes(whole[:-cut])
  assert [r['step'] for r in log.read(path)] == [1, 2]
  log.JsonlWriter(path).write(3, {'loss': 1 / 3, 'time/step_s': 0.5})
  assert path.read_bytes() == whole


def test_cut_in_the_middle_of_a_letter(tmp_path):
  path = tmp_path / 'm'
  write_steps(path, [1])
  path.write_bytes(path.read_bytes() + b'{"step": 2, "\xc3')
  assert [r['step'] for r in log.read(path)] == [1]
  log.JsonlWriter(path).write(2, {})
  assert [r['step'] for r in log.read(path)] == [1, 2]


def test_a_value_called_step_is_refused(tmp_path):
  with pytest.raises(ValueError, match="called 'step'"):
    log.JsonlWriter(tmp_path / 'm').write(1, {'step': 2})


def test_deterministic_leaves_out_what_a_clock_measured():
  record = {'step': 1, 'loss': 2.0, 'time/step_s': 0.1}
  assert log.deterministic(record) == {'step': 1, 'loss': 2.0}


def test_tensorboard(tmp_path):
  writer = log.TensorBoardWriter(tmp_path)
  assert not list(tmp_path.iterdir())  # nothing before the first value
  writer.write(1, {'loss': 0.5, 'load': np.arange(6.0).reshape(2, 3)})
  writer.write(2, {'loss': 0.25, 'load': np.array([np.inf, 1.0])})
  writer.write(3, {'load': np.array([np.nan, 1.0])})  # NaN is not there
  writer.write(4, {'load': np.array([np.nan])})
  writer.truncate_after(1)
  writer.write(2, {'loss': 0.125})
  writer.close()
  scalars, purges = events.read(tmp_path)
  assert scalars['loss', 1] == 0.5
  assert scalars['load', 1] == 'histo'
  assert scalars['load', 3] == 'histo'
  assert not {('load', 2), ('load', 4)} & scalars.keys()
  assert purges == [2]


def test_texts_for_tensorboard_are_in_every_file(tmp_path):
  writer = log.TensorBoardWriter(tmp_path, {'config': '    a = 1\n'})
  assert not list(tmp_path.iterdir())
  for step in (1, 5):
    writer.truncate_after(step - 1)
    writer.write(step, {'loss': 0.5})
  writer.close()
  scalars, _ = events.read(tmp_path)
  texts = {step: kind for (tag, step), kind in scalars.items() if 'conf' in tag}
  assert texts == {1: 'tensor', 5: 'tensor'}
  assert b'    a = 1' in next(tmp_path.iterdir()).read_bytes()


def test_events_are_put_on_an_object_store_now_and_then(tmp_path, monkeypatch):
  store = far.store(monkeypatch, tmp_path / 'gs')
  writer = log.TensorBoardWriter('gs://bucket/events')
  monkeypatch.setattr(log, 'PUT_S', 0.0)
  writer.write(1, {'loss': 0.5})
  assert len(store.puts) == 1
  monkeypatch.setattr(log, 'PUT_S', 60.0)
  writer.write(2, {'loss': 0.5})
  assert len(store.puts) == 1
  writer.close()
  scalars, _ = events.read(tmp_path / 'gs' / 'bucket' / 'events')
  assert [*scalars] == [('loss', 1), ('loss', 2)]


def test_hyperparameters_are_those_of_the_run_itself(tmp_path):
  from tensorboardX.proto import event_pb2, plugin_hparams_pb2

  values = {'rate': 0.5, 'steps': 20, 'dense': False, 'none': None, 'l': (1, 2)}
  outcomes = ['eval/loss', 'train/loss']
  writer = log.TensorBoardWriter(tmp_path, {}, values, outcomes)
  writer.write(1, {'loss': 0.5})
  writer.close()
  (path,) = tmp_path.iterdir()  # no folder, which would be another run
  data, parts = path.read_bytes(), {}
  while data:
    (size,) = np.frombuffer(data[:8], '<u8')
    event = event_pb2.Event.FromString(data[12 : 12 + int(size)])
    data = data[16 + int(size) :]
    for value in event.summary.value:
      plugin = value.metadata.plugin_data
      if plugin.plugin_name == 'hparams':
        read = plugin_hparams_pb2.HParamsPluginData.FromString(plugin.content)
        parts[read.WhichOneof('data')] = read
  # Nothing says that the run has ended.
  assert parts.keys() == {'experiment', 'session_start_info'}
  start = parts['session_start_info'].session_start_info.hparams
  kinds = {name: value.WhichOneof('kind') for name, value in start.items()}
  assert {name: getattr(start[name], kinds[name]) for name in kinds} == {
    'rate': 0.5,
    'steps': 20.0,
    'dense': False,
    'none': 'None',
    'l': '(1, 2)',
  }
  metrics = parts['experiment'].experiment.metric_infos
  assert [m.name.tag for m in metrics] == outcomes
