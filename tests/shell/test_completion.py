"""Words that TAB offers, and the scripts of shells that ask for them.

After a change of config keys or of variants, write them anew with

  UPDATE_GOLDEN=1 python -m pytest tests/shell/test_completion.py
"""

import os
import pathlib
import shlex
import shutil
import subprocess
import sys

import pytest

from moejax import config
from moejax.cli import completion as command
from moejax.config import listing, user_files
from moejax.core import config_tree, exits, shipped
from moejax.shell import completion, reference

ROOT = pathlib.Path(__file__).parents[2]


def _golden(path, text):
  if 'UPDATE_GOLDEN' in os.environ:
    path.write_text(text, encoding='utf-8')
  assert path.read_text(encoding='utf-8') == text


def _values_of(key):
  if key.type in ('bool', 'bool or none'):
    return ['true', 'false']
  if key.type == 'on or off':
    return ['on', 'off']
  is_range = key.type.startswith(('int', 'float', 'parts'))
  return [] if is_range or not key.allowed else key.allowed.split(', ')


def test_keys_are_those_that_a_config_has():
  """A key that several choices have has the values of all of them."""
  values = {}
  for key in [*listing.keys()]:
    # The choices of parts are keys themselves.
    if key.type != 'parts':
      found = values.setdefault(key.path, {})
      found.update(dict.fromkeys(_values_of(key)))
  lines = [
    f'{path}={",".join(found)}' if found else path
    for path, found in sorted(values.items())
  ]
  _golden(completion.KEYS, '\n'.join([*lines, '']))


def test_every_key_of_the_default_config_is_offered():
  keys = config_tree.flatten(config.Run())
  assert len(keys) > 150
  for key in keys:
    # A choice has its name at its own path.
    flag = f'--config.{key.removesuffix(".name")}'
    assert f'{flag}=' in completion.words(f'moejax train {flag}')


def _variants(name):
  module = user_files.load(name, 'config')
  return list(getattr(module, 'NAMES', getattr(module, 'VARIANTS', ())))


def test_variants_are_those_of_the_configs():
  found = {name: _variants(name) for name in shipped.names('config')}
  lines = [f'{name}:{",".join(v)}' for name, v in found.items() if v]
  assert len(lines) > 5
  _golden(completion.VARIANTS, '\n'.join([*lines, '']))


EVERY = [*reference.modules()]


@pytest.mark.parametrize(
  ('line', 'found'),
  [
    ('moejax ', [*EVERY, 'help', '--help', '--version']),
    ('moejax tra', ['train', 'trace', 'train_tokenizer']),
    (
      'moejax help co',
      ['codemmlu', 'completion', 'compress', 'config', 'convert', 'count'],
    ),
    ('moejax help convert im', ['import']),
    ('moejax help convert import ', []),
    ('moejax tarin --', []),
    ('moejax convert im', ['import']),
    ('moejax convert import ', []),  # a folder
    ('moejax convert import --w', ['--workdir=']),
    ('moejax convert import x --workdir=y --w', []),
    ('moejax count --j', ['--json']),
    ('moejax count --json --j', []),
    ('moejax report --workdir=a --w', ['--workdir=']),  # may be repeated
    ('moejax train --dist', ['--distributed=']),
    (
      'moejax train --distributed=',
      ['--distributed=auto', '--distributed=off'],
    ),
    ('moejax train --distributed o', ['off']),
    ('moejax train --workdir=r', []),
    ('moejax train --workdir r', []),
    ('moejax plan --config=ti', ['--config=tiny']),
    ('moejax plan --config ti', ['tiny']),
    (
      'moejax plan --config=ds_145b:',
      [f'--config=ds_145b:{w}' for w in ('deepseek_moe', 'half', 'gshard')]
      + ['--config=ds_145b:tiny'],
    ),
    ('moejax plan --config=zoo:tiny,olmo', ['--config=zoo:tiny,olmoe']),
    ('moejax plan --config=mine.py:t', ['--config=mine.py:tiny']),
    ('moejax sweep --sweep=compress', None),
    ('moejax compress --sw', ['--sweep']),
    ('moejax train --config.opt.sch', None),
    ('moejax train --config.tra', ['--config.train.']),
    ('moejax train --config.train.ste', ['--config.train.steps=']),
    ('moejax train --config.train.steps=', []),
    (
      'moejax train --config.model.moe.router=gs',
      ['--config.model.moe.router=gshard'],
    ),
    ('moejax train --config.model.moe.router gs', ['gshard']),
    (
      'moejax train --config.model.tie_embeddings=',
      [f'--config.model.tie_embeddings={w}' for w in ('true', 'false')],
    ),
    (
      'moejax train --config.model.moe.balance.loss_free=o',
      [f'--config.model.moe.balance.loss_free={w}' for w in ('on', 'off')],
    ),
    (
      'moejax train --config.data.sources.wiki.text_f',
      ['--config.data.sources.wiki.text_field='],
    ),
    ('moejax train --config.data.sources.', []),  # a name of one's own
    ('moejax completion ', ['bash', 'fish', 'zsh']),
    ("moejax generate --prompt='In the", []),  # within quotes
    ("moejax train --workdir='a b' --config=ti", ['--config=tiny']),
  ],
)
def test_words_that_fit_a_line(line, found):
  if line.endswith('=compress'):
    found = ['--sweep=compress', '--sweep=compress_recovery']
  if line.endswith('opt.sch'):
    found = ['--config.opt.schedule=', '--config.opt.schedule.']
  assert sorted(completion.words(line)) == sorted(found)
  # As a shell gives them that knows the words.
  if "'" not in line:
    apart = completion.SEPARATOR.join(line.split(' '))
    assert completion.words(apart) == completion.words(line)


def test_a_flag_of_the_command_is_offered_with_keys_and_help():
  found = completion.words('moejax count ')
  assert found == ['--config=', '--json', '--config.', '--trace', '--help']


@pytest.mark.parametrize(
  ('line', 'found'),
  [
    ('moejax plan --config=ti', ['tiny']),
    ('moejax plan --config=ds_145b:ha', ['half']),
    ('moejax plan --config.train.ste', ['--config.train.steps=']),
    ('moejax plan --config.model.tie_embeddings=t', ['true']),
    ('moejax pla', ['plan']),
  ],
)
def test_where_a_shell_breaks_words_it_gets_the_rest(line, found):
  assert completion.words(line, ' \t\n"\'><=;|&(:') == found
  whole = completion.words(line, ' \t\n')
  assert [word.endswith(found[0]) for word in whole] == [True]


def test_a_shell_without_a_script_is_one_line_with_those_that_have_one(capsys):
  assert exits.call(command.main, ['tcsh']) == exits.BAD_INPUT
  assert capsys.readouterr().err == (
    "error: there is no completion for 'tcsh'; there is for bash, fish, zsh\n"
  )


@pytest.mark.parametrize('shell', ['bash', 'fish', 'zsh'])
def test_the_command_prints_the_script(shell, capsys):
  assert exits.call(command.main, [shell]) == 0
  path = ROOT / 'moejax' / 'shell' / 'scripts' / f'moejax.{shell}'
  assert capsys.readouterr().out == path.read_text()


# How each shell is asked what TAB would offer. The first argument is the
# script, the others are the words up to the cursor. zsh's `compadd` and
# `_files` belong to its line editor, so they are replaced by what they are
# called with.
ASK = {
  'bash': """
source "$1"; shift
COMP_LINE="$*" COMP_POINT=${#COMP_LINE} COMP_WORDS=("$@")
_moejax
printf '%s\\n' "${COMPREPLY[@]}"
""",
  'zsh': """
compdef() { :; }; compset() { :; }
compadd() { while [[ $1 != -- ]] { shift }; shift; (( $# )) && print -l -- $@ }
_files() { print files }
source "$1"; shift
words=("$@") CURRENT=$# PREFIX=${@[-1]}
_moejax
""",
  'fish': 'source $argv[1]; complete -C (string join -- " " $argv[2..-1])',
}
# bash is everywhere; the tests of a shell run where that shell is.
SHELLS = [shell for shell in ASK if shell == 'bash' or shutil.which(shell)]


@pytest.fixture
def ask(tmp_path):
  """What a shell offers behind some words, in an empty folder."""
  program = tmp_path / 'bin' / 'moejax'
  program.parent.mkdir()
  program.write_text(
    f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m moejax "$@"\n'
  )
  program.chmod(0o755)
  folder = tmp_path / 'empty'
  folder.mkdir()

  def ask(shell, *words):
    script = completion.FOLDER / 'scripts' / f'moejax.{shell}'
    plain = {'bash': ['--norc'], 'zsh': ['-f'], 'fish': ['--no-config']}
    behind = ['x'] if shell != 'fish' else []
    done = subprocess.run(
      [shell, *plain[shell], '-c', ASK[shell], *behind, script, *words],
      capture_output=True,
      text=True,
      cwd=folder,
      check=False,
      env={
        'HOME': str(folder),
        'PATH': f'{program.parent}:{os.environ["PATH"]}',
        'PYTHONPATH': str(ROOT),
      },
    )
    assert done.stderr == ''
    # fish adds a description behind a tab.
    return [line.partition('\t')[0] for line in done.stdout.splitlines()]

  return ask


@pytest.mark.parametrize('shell', SHELLS)
def test_a_shell_offers_the_words(shell, ask):
  assert sorted(ask(shell, 'moejax', 'tra')) == [
    'trace',
    'train',
    'train_tokenizer',
  ]
  key = '--config.train.ste'
  assert ask(shell, 'moejax', 'train', key) == ['--config.train.steps=']
  variants = ask(shell, 'moejax', 'plan', '--config=ds_145b:ha')
  # bash itself keeps what is before the colon.
  whole = '--config=ds_145b:half'
  assert variants == ['half' if shell == 'bash' else whole]
  folder = ask(shell, 'moejax', 'convert', 'import', '')
  assert folder == {'bash': [''], 'zsh': ['files'], 'fish': []}[shell]
