"""The table of loggers, what is checked before a run, and the tags."""

import configparser
import pathlib
import re

import numpy as np
import pytest
from etils import epath
from helpers import events, far

from moejax import config
from moejax.config import Run
from moejax.core import config_tree, errors, log, resume
from moejax.train import loggers
from moejax.train.loggers import base, tags

ROOT = pathlib.Path(__file__).parents[3]
FILES = loggers.DEFAULT


def test_process_0_alone_writes(tmp_path):
  place = loggers.Place(tmp_path / 'a')
  writers = loggers.open_writers(FILES, place, process_index=1)
  writers.write(1, {'loss': 1.0})
  writers.truncate_after(0)
  writers.close()
  assert not (tmp_path / 'a').exists()
  writers = loggers.open_writers(FILES, loggers.Place(tmp_path / 'b'))
  writers.write(1, {'loss': 1.0})
  writers.close()
  assert log.read(tmp_path / 'b/metrics.jsonl') == [{'step': 1, 'loss': 1.0}]
  scalars, _ = events.read(tmp_path / 'b/tensorboard')
  assert scalars.pop(('train/loss', 1)) == 1.0


def test_on_an_object_store(tmp_path, monkeypatch):
  """Where nothing is appended: the file is as if written on a disk."""
  store = far.store(monkeypatch, tmp_path / 'gs')
  values = {'loss': np.float32(0.5), 'load': np.arange(3.0)}

  def write(workdir):
    writers = loggers.open_writers(FILES, loggers.Place(workdir))
    for steps, last in [((1, 2, 3), 0), ((3, 4), 2)]:  # as after a kill
      writers.truncate_after(last)
      for step in steps:
        writers.write(step, values)
      writers.close()

  write(epath.Path('gs://bucket/run'))
  write(disk := tmp_path / 'disk')
  run = tmp_path / 'gs' / 'bucket' / 'run'
  name = 'metrics.jsonl'
  assert (run / name).read_bytes() == (disk / name).read_bytes()
  records = log.read(f'gs://bucket/run/{name}')
  assert [r['step'] for r in records] == [1, 2, 3, 4]
  scalars = events.read(run / 'tensorboard')
  assert scalars == events.read(disk / 'tensorboard')
  assert store.puts.count(name) == 6  # five lines, and what was taken out
  assert len(store.puts) == 6 + 2  # a file of events for each start


def test_flags_choose_loggers_and_no_choice_changes_a_run():
  flags = [
    ('train.loggers.tensorboard', 'off'),
    ('train.loggers.wandb.project', 'mine'),
  ]
  run = config_tree.override_all(Run(), flags)
  kinds = [loggers.LOGGERS['jsonl'], loggers.LOGGERS['wandb']]
  assert [type(logger) for logger in run.train.loggers] == kinds
  assert run.train.loggers[1].project == 'mine'
  changes = resume.changes(Run(), run)
  assert [e for e, keys in changes.items() if keys] == [resume.NOTHING]
  tree = config.default()
  tree.train.loggers = {'mlflow': {'uri': 'http://host:5000'}}
  (logger,) = config_tree.from_config_dict(Run, tree).train.loggers
  assert logger == loggers.LOGGERS['mlflow'](uri='http://host:5000')


OUTSIDE = ['mlflow', 'wandb']


def test_every_logger_with_a_package_has_its_extra():
  outside = {
    name: logger()
    for name, logger in loggers.LOGGERS.items()
    if issubclass(logger, base.Outside)
  }
  assert outside.keys() == {*OUTSIDE}
  setup = configparser.ConfigParser()
  setup.read(ROOT / 'setup.cfg', encoding='utf-8')
  for name, logger in outside.items():
    assert logger.package() == name
    wanted = setup['options.extras_require'][name]
    assert wanted.startswith(f'{name}>=')


@pytest.mark.parametrize('name', OUTSIDE)
def test_without_its_package_a_line_says_how_to_install_it(
  name, tmp_path, monkeypatch
):
  monkeypatch.setattr('importlib.util.find_spec', lambda _: None)
  place = loggers.Place(tmp_path)
  loggers.check(FILES, place)
  with pytest.raises(errors.InputError) as raised:
    loggers.check((*FILES, loggers.LOGGERS[name]()), place)
  (line,) = str(raised.value).splitlines()
  assert line.startswith(f'train.loggers.{name} needs the package {name}: ')
  assert f"pip install 'moejax[{name}]'" in line


@pytest.mark.parametrize(
  ('name', 'keys', 'fix'),
  [('mlflow', {}, 'uri='), ('wandb', {'mode': 'offline'}, 'mode=online')],
)
def test_files_of_their_own_need_a_disk(name, keys, fix, monkeypatch):
  monkeypatch.delenv('MLFLOW_TRACKING_URI', raising=False)
  monkeypatch.setattr('importlib.util.find_spec', lambda name: name)
  place = loggers.Place(epath.Path('gs://bucket/run'))
  with pytest.raises(errors.InputError, match=f'gs://bucket/run: .*{fix}'):
    loggers.check([loggers.LOGGERS[name](**keys)], place)


def test_tags_are_in_few_groups_and_no_two_metrics_share_one():
  text = (ROOT / 'docs/runs.md').read_text()
  section = text.split('### What the metrics mean')[1].split('\n## ')[0]
  cells = re.findall(r'^\|([^|]+)', section, re.MULTILINE)
  names = [name for cell in cells for name in re.findall(r'`([^`]+)`', cell)]
  names = [n for n in names if re.fullmatch(r'[\w/]+', n)]
  assert len(names) > 25
  names += ['moe/entropy_worst_layer', 'vision/encoder/load_max']
  tagged = [tags.tag(name) for name in names]
  assert len({*tagged}) == len(names)
  groups = {tag.split('/')[0] for tag in tagged}
  assert all('/' in tag for tag in tagged)
  assert groups == {
    'train', 'skips', 'balance', 'moe', 'moe_layers', 'vision_encoder',
    'eval', 'evals', 'data', 'time', 'goodput',
  }  # fmt: skip


@pytest.mark.parametrize(
  ('name', 'tag'),
  [
    ('loss', 'train/loss'),
    ('skipped', 'skips/skipped'),
    ('eval/code/loss', 'eval/code/loss'),
    ('moe/entropy', 'moe/entropy'),
    ('moe/entropy_median_layer', 'moe_layers/entropy_median_layer'),
    ('vision/projector/load_max', 'vision_projector/load_max'),
    (
      'vision/encoder/load_max_median_layer',
      'vision_encoder_layers/load_max_median_layer',
    ),
    ('time/step_s', 'time/step_s'),
    ('time/goodput/share', 'goodput/share'),
  ],
)
def test_tags(name, tag):
  assert tags.tag(name) == tag
