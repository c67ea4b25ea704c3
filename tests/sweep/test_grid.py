"""Combinators of sweeps, and what a sweep file can do wrong."""

import os

import pytest

from moejax import config
from moejax.cli import sweep as sweep_cli
from moejax.core import errors
from moejax.sweep import grid as sweep
from moejax.sweep import sweep_file


def _names(runs):
  return [run.name for run in runs]


def test_each_names_runs_by_what_stands_behind_the_colon():
  runs = sweep.each('configs/zoo.py', ['switch', 'gshard'])
  assert _names(runs) == ['switch', 'gshard']
  assert runs[1].config == 'configs/zoo.py:gshard'
  assert _names(sweep.run('configs/tiny.py')) == ['tiny']
  assert _names(sweep.run('configs/tiny.py:tiny', name='own')) == ['own']


def test_product_takes_every_combination_and_says_so_in_the_name():
  runs = sweep.product(
    sweep.run('a.py') + sweep.run('b.py'),
    {'opt.peak_lr': [0.001, 0.003], 'model.tie_embeddings': [True]},
  )
  assert _names(runs) == [
    'a-peak_lr=0.001-tie_embeddings=True',
    'a-peak_lr=0.003-tie_embeddings=True',
    'b-peak_lr=0.001-tie_embeddings=True',
    'b-peak_lr=0.003-tie_embeddings=True',
  ]
  assert runs[1].overrides == {
    'seed': '0',
    'opt.peak_lr': '0.003',
    'model.tie_embeddings': 'True',
  }
  assert runs[1].group == runs[1].name


def test_seeds_go_round_and_keep_the_group():
  runs = sweep.seeds(sweep.run('a.py') + sweep.run('b.py'), 2)
  assert _names(runs) == ['a-seed=0', 'b-seed=0', 'a-seed=1', 'b-seed=1']
  assert [run.group for run in runs] == ['a', 'b', 'a', 'b']
  assert runs[2].overrides == {'seed': '1'}


def test_changes_add_up_and_later_ones_replace_earlier_ones():
  runs = sweep.change(
    sweep.run('a.py', {'train.steps': 5, 'opt.clip_norm': 1}),
    {'train.steps': 7, 'opt.schedule.milestones': (0.5, 0.9)},
  )
  assert runs[0].overrides == {
    'seed': '0',
    'train.steps': '7',
    'opt.clip_norm': '1',
    'opt.schedule.milestones': '0.5,0.9',
  }


def test_a_seed_of_its_own_replaces_the_seed_0_of_a_run():
  runs = sweep.run('a.py', {'seed': 5})
  assert runs[0].overrides == {'seed': '5'}
  # As with any other key, the value of the outer combinator is used.
  (one,) = sweep.seeds(runs, 1)
  assert (one.name, one.overrides) == ('a-seed=0', {'seed': '0'})


TWICE = """
from moejax import sweep
TINY = 'configs/tiny.py:tiny'
def get_sweep():
  return sweep.change(sweep.run(TINY, {'train.steps': 5}), {'train.steps': 7})
"""


def test_a_flag_replaces_what_the_sweep_says(tmp_path, capsys):
  file = tmp_path / 'twice.py'
  file.write_text(TWICE)
  flags = [f'--sweep={file}', f'--workdir={tmp_path}', '--list']
  sweep_cli.main(flags)
  assert 'seed=0 train.steps=7\n' in capsys.readouterr().out
  sweep_cli.main([*flags, '--config.train.steps=9'])
  assert 'seed=0 train.steps=9\n' in capsys.readouterr().out


BODY = 'from moejax import sweep\n'
BAD = {
  'no get_sweep': ('x = 1\n', 'has no function get_sweep()'),
  'no list': ('def get_sweep():\n  return 7\n', 'must return a list of runs'),
  'no runs': ('def get_sweep():\n  return []\n', 'must return a list of runs'),
  'texts': ('def get_sweep():\n  return ["a"]\n', 'must return a list of runs'),
  'twice': (
    'def get_sweep():\n  return 2 * sweep.run("configs/tiny.py")\n',
    "2 runs are called 'tiny'; give them names of their own",
  ),
  'no folder': (
    'def get_sweep():\n  return sweep.run("configs/tiny.py", name="a/b")\n',
    "a run cannot be called 'a/b': its name is a folder",
  ),
  'taken': (
    'def get_sweep():\n  return sweep.run("a.py", name="compile_cache")\n',
    "a run cannot be called 'compile_cache'",
  ),
  'wrong call': (
    'def get_sweep():\n  return sweep.seeds([], 1, 2)\n',
    'TypeError: seeds() takes 2 positional arguments',
  ),
}


@pytest.mark.parametrize('case', sorted(BAD))
def test_a_bad_sweep_file_gets_one_line_that_names_it(case, tmp_path):
  source, message = BAD[case]
  path = tmp_path / 'mine.py'
  path.write_text(BODY + source)
  with pytest.raises(errors.InputError) as caught:
    sweep_file.load(str(path))
  (line,) = str(caught.value).splitlines()
  assert message in line
  assert line.startswith(str(path))


def test_a_file_that_is_not_there_names_the_nearest(tmp_path):
  (tmp_path / 'routers.py').write_text(BODY)
  with pytest.raises(errors.InputError, match=r"did you mean 'routers'\?"):
    sweep_file.load(str(tmp_path / 'ruoters.py'))


def test_words_behind_colons_are_a_name_as_those_behind_commas_are():
  for spec in ('zoo.py:olmoe:tiny', 'zoo.py:olmoe,tiny'):
    assert _names(sweep.run(spec)) == ['olmoe-tiny']
    workdir = config.default_workdir(spec)
    assert workdir == os.path.join('runs', 'zoo-olmoe-tiny')
  # A folder is named by its last part.
  workdir = config.default_workdir('continue.py:/models/olmoe/')
  assert workdir == os.path.join('runs', 'continue-olmoe')
