"""Names of before: refused in flags and files, understood in old workdirs."""

import json

import pytest

from moejax import config
from moejax.config import old_keys
from moejax.core import config_tree, errors

FILE = 'from moejax import config\ndef get_config():\n  c = config.default()\n'


@pytest.mark.parametrize(
  ('key', 'text', 'words'),
  [
    ('model.moe.exchange', 'ring', "called 'model.moe.expert_parallel' now"),
    (
      'model.moe.exchange.overflow',
      'drop',
      "called 'model.moe.expert_parallel.overflow' now",
    ),
    ('model.moe.expert_parallel', 'ring', "=ring is called 'all_gather' now"),
    (
      'model.moe.expert_parallel.name',
      'gathered',
      "=gathered is called 'gather_experts' now",
    ),
    (
      'model.moe.grouped_matmul',
      'obvious',
      "=obvious is called 'reference' now",
    ),
  ],
)
def test_a_flag_with_an_old_name_is_told_the_new_one(key, text, words):
  with pytest.raises(errors.InputError) as e:
    config.load('configs/tiny.py', [(key, text)])
  assert words in str(e.value)
  assert '\n' not in str(e.value)


@pytest.mark.parametrize(
  ('body', 'words'),
  [
    (
      FILE + "  c.model.moe.exchange.name = 'ring'\n  return c\n",
      'model.moe.exchange is called model.moe.expert_parallel now',
    ),
    (
      FILE + "  c.model.moe.exchange = 'ring'\n  return c\n",
      "'model.moe.exchange' is called 'model.moe.expert_parallel' now",
    ),
    (
      FILE + "  c.model.moe.expert_parallel.name = 'ring'\n  return c\n",
      "model.moe.expert_parallel=ring is called 'all_gather' now",
    ),
    ('from moejax.cli import run_config\n', 'it is moejax.config now'),
    ('from moejax.cli import sweep_config\n', 'it is moejax.sweep now'),
    ('from moejax.cli.run_config import default\n', 'it is moejax.config now'),
    ('import moejax.cli.run_config\n', 'it is moejax.config now'),
  ],
)
def test_a_config_file_with_an_old_name_is_told_the_new_one(
  tmp_path, body, words
):
  path = tmp_path / 'mine.py'
  path.write_text(body)
  with pytest.raises(errors.InputError) as e:
    config.load(str(path))
  assert words in str(e.value)
  assert 'mine.py' in str(e.value)


def test_an_old_workdir_opens_with_the_names_of_now(tmp_path):
  run = config.load(
    'configs/tiny.py',
    [
      ('model.moe.expert_parallel', 'all_gather'),
      ('model.moe.grouped_matmul', 'reference'),
    ],
  )
  tree = config_tree.to_dict(run)
  moe = tree['model']['moe']
  moe['exchange'] = {**moe.pop('expert_parallel'), 'name': 'ring'}
  moe['grouped_matmul'] = 'obvious'
  (tmp_path / 'config.json').write_text(json.dumps(tree))
  assert config.of_workdir(str(tmp_path)) == run


def test_a_tree_of_now_stays_as_it_is():
  tree = config_tree.to_dict(config.load('configs/ds_2b.py'))
  assert old_keys.migrated(json.loads(json.dumps(tree))) == json.loads(
    json.dumps(tree)
  )
