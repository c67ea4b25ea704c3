"""The list of all config keys, against the tree that flags set."""

import dataclasses
import pathlib
import re

import pytest

from moejax import config
from moejax.cli import config as command
from moejax.config import Run, listing
from moejax.core import config_tree, errors, fields
from moejax.run import config_view

ROOT = pathlib.Path(__file__).parents[2]
TINY = f'{ROOT}/configs/tiny.py:tiny'
KEYS = listing.keys()


def test_every_key_has_a_meaning_and_a_type():
  assert len(KEYS) > 500
  assert [key.path for key in KEYS if not key.meaning] == []
  assert [key.path for key in KEYS if not key.type] == []
  assert len({(key.path, key.only_with) for key in KEYS}) == len(KEYS)


def test_the_keys_of_the_default_config_have_its_values():
  listed = {}
  for key in KEYS:
    path = f'{key.path}.name' if key.type == 'name' else key.path
    listed.setdefault(path, []).append(key.default)
  flat = config_tree.flatten(Run())
  for path, value in flat.items():
    assert value in listed[path], path
  # And a key that no choice brings is a key of the default config.
  always = [
    key
    for key in KEYS
    if not key.only_with
    and key.type not in ('parts', 'on or off')
    and listing.NAME not in key.path
  ]
  for key in always:
    path = f'{key.path}.name' if key.type == 'name' else key.path
    assert flat[path] == key.default


def test_a_default_is_what_a_flag_takes():
  for path in ('opt.peak_lr', 'train.steps', 'model.moe.router', 'data.vocab'):
    (key,) = (k for k in KEYS if k.path == path)
    text = config_view.shown(key.default)
    assert config_tree.override(Run(), path, text) == Run()
  for key in KEYS:
    if key.only_with.startswith('opt.schedule='):
      flags = [
        tuple(key.only_with.split('=')),
        (key.path, config_view.shown(key.default)),
      ]
      config_tree.override_all(Run(), flags)


@pytest.mark.parametrize('bad', ['-5', '1e30', 'x'])
def test_an_error_names_its_key_once_and_no_class(bad):
  lines = {}
  for key in KEYS:
    if key.type in ('name', 'parts', 'str') or not key.allowed:
      continue
    path = key.path.replace(listing.NAME, 'web')
    choices = key.only_with.replace(listing.NAME, 'web')
    flags = [tuple(flag.split('=')) for flag in choices.split(', ') if flag]
    try:
      config_tree.override_all(Run(), [*flags, (path, bad)])
    except errors.InputError as e:
      lines[path] = str(e)
  assert len(lines) > 100
  for path, line in lines.items():
    assert line.count(path) == 1, line
    assert not re.search(r'\b[A-Z]\w+\.\w+=', line), line
    assert ' to -' not in line, line


@dataclasses.dataclass(frozen=True)
class Base:
  """A base.

  Attributes:
    a, b: two numbers,
      of one kind: whole.
    c: of the base.
  """

  a: int = 1


@dataclasses.dataclass(frozen=True)
class Derived(Base):
  """Another.

  Attributes:
    c: of its own.

  And a last paragraph: no key.
  """

  c: int = fields.number(2, at_least=1)


def test_meanings_are_those_of_the_docstrings():
  assert listing.meanings(Derived) == {
    'a': 'two numbers, of one kind: whole.',
    'b': 'two numbers, of one kind: whole.',
    'c': 'of its own.',
  }


def test_keys_are_shown_by_a_part_of_their_path(capsys):
  command.main(['--list=opt.schedule.milestones'])
  assert capsys.readouterr().out == (
    'opt.schedule.milestones=0.8,0.9\n'
    '    list of float: from 0 to 1; with opt.schedule=steps\n'
    "    shares of the run's steps.\n"
    f'\n1 of {len(KEYS)} keys\n'
  )
  command.main(['--list'])
  out = capsys.readouterr().out
  assert all(f'{key.path}=' in out for key in KEYS)


def test_a_choice_within_a_choice_names_both():
  (key,) = (k for k in KEYS if k.path == 'model.moe.router.noise.strength')
  assert key.only_with == (
    'model.moe.router=noisy_top_k, model.moe.router.noise=fixed'
  )


@pytest.mark.parametrize(
  ('flags', 'words'),
  [
    ([], 'give --list or --config=FILE, one of the two'),
    (['--list', f'--config={TINY}'], 'one of the two'),
    (['--list', '--config.seed=1'], '--config.seed goes with --config'),
    (['--list', '--changed'], '--changed goes with --config'),
    (['--list=peak_rl'], "unknown config key 'peak_rl'"),
    ([f'--config={TINY}', '--config.train.stepz=1'], 'train.steps'),
  ],
)
def test_wrong_flags_are_one_line(flags, words):
  with pytest.raises(errors.InputError, match=words):
    command.main(flags)


def test_the_config_of_a_run_is_shown_without_training(capsys, monkeypatch):
  monkeypatch.setattr('moejax.config.loading.default_workdir', None)
  flags = [f'--config={TINY}', '--config.train.steps=7']
  command.main(flags)
  lines = capsys.readouterr().out.splitlines()
  run = config.load(TINY, [('train.steps', '7')])
  assert len(lines) == len(config_tree.flatten(run))
  assert 'train.steps=7' in lines
  assert 'opt.schedule.warmup=none' in lines
  command.main([*flags, '--changed'])
  fewer = capsys.readouterr().out.splitlines()
  assert 'train.steps=7' in fewer
  assert set(fewer) < set(lines)
  # What is shown are flags, which make this run of the defaults.
  pairs = [tuple(line.split('=', 1)) for line in fewer]
  assert config_tree.override_all(Run(), pairs).train == run.train
