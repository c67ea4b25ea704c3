"""`moejax COMMAND`: the list, help, and what is run."""

import configparser
import importlib.machinery
import pathlib
import runpy
import subprocess
import sys
import types

import pytest

import moejax
from moejax.core import command, exits, interrupts
from moejax.shell import dispatch, reference

ROOT = pathlib.Path(__file__).parents[2]


def shown(capsys, *words):
  """Exit code, stdout and stderr of `moejax WORDS`, which is no run."""
  try:
    code = exits.call(dispatch.main, words)
  except SystemExit as e:  # of argparse, behind a help
    code = e.code
  out, err = capsys.readouterr()
  return code, out, err


def test_alone_it_lists_each_command_once_with_what_it_does(capsys):
  code, out, _ = shown(capsys)
  assert code == 0
  assert (code, out, '') == shown(capsys, '--help') == shown(capsys, 'help')
  one_line = ' '.join(out.split())
  names = [line.split()[0] for line in out.splitlines() if line[:3].strip()]
  for name, module in reference.modules().items():
    assert f'{name} {reference.summary(module)}' in one_line
    assert out.count(f'\n  {name} ') == 1, names


@pytest.mark.parametrize('width', [40, 80, 200])
def test_the_list_is_as_wide_as_the_terminal(width):
  lines = dispatch.listing(width).splitlines()
  assert max(map(len, lines[3:-5])) <= width
  assert lines[-5:] == ['examples:', *dispatch.EXAMPLES.splitlines()]
  assert all(line == line.rstrip() for line in lines)


@pytest.mark.parametrize(
  ('words', 'line'),
  [
    (['tarin'], "unknown command 'tarin'; did you mean 'train'? known are: an"),
    (['help', 'tarin'], "unknown command 'tarin'; did you mean 'train'?"),
    (
      ['convert', 'imprt', '--help'],
      "unknown command of moejax convert 'imprt'; did you mean 'import'? kn",
    ),
    (
      ['--config=tiny'],
      '--config=tiny: a command comes first, as in moejax train --config=tiny',
    ),
  ],
)
def test_what_is_no_command_is_one_line_that_names_the_nearest(
  words, line, capsys
):
  code, out, err = shown(capsys, *words)
  assert (code, out) == (exits.BAD_INPUT, '')
  (only,) = err.splitlines()
  assert only.startswith(f'error: {line}')


def test_help_stands_before_or_behind_the_command(capsys):
  first = shown(capsys, 'train', '--help')
  assert first[0] == 0
  assert first[1].startswith('usage: moejax train [-h]')
  assert 'examples:\n  moejax train --config=tiny' in first[1]
  for words in (('help', 'train'), ('train', '-h'), ('train', 'x', '-h')):
    assert shown(capsys, *words) == first


@pytest.mark.parametrize('name', [*reference.modules()])
def test_every_command_has_a_help(name, capsys):
  code, out, err = shown(capsys, name, '--help')
  assert (code, err) == (0, '')
  assert out.startswith(f'usage: moejax {name} ')


def test_help_of_a_subcommand(capsys):
  whole = shown(capsys, 'convert', '--help')
  one = shown(capsys, 'convert', 'import', '--help')
  assert one == shown(capsys, 'help', 'convert', 'import')
  assert one[1].startswith('usage: moejax convert import [-h]')
  assert whole[1].startswith('usage: moejax convert [-h]')
  assert one[1].endswith(
    'examples:\n  moejax convert import FOLDER --workdir=runs/olmoe\n'
  )


def test_the_version_is_that_of_the_package(capsys):
  assert shown(capsys, '--version') == (0, f'moejax {moejax.__version__}\n', '')


LIGHT = """
import sys
before = set(sys.modules)
from moejax.shell import dispatch
for words in [], ['train', '--help'], ['convert', 'import', '--help']:
  try:
    dispatch.main(words)
  except SystemExit:
    pass
print('imported', *sorted({n.split('.')[0] for n in set(sys.modules) - before}))
"""


def test_help_imports_moejax_and_the_standard_library_alone():
  done = subprocess.run(
    [sys.executable, '-c', LIGHT],
    capture_output=True,
    text=True,
    cwd=ROOT,
    check=True,
  )
  last = done.stdout.splitlines()[-1].split()
  assert last[0] == 'imported'
  assert {*last[1:]} - {*sys.stdlib_module_names} == {'moejax'}


@pytest.fixture
def start(monkeypatch, capsys):
  """Runs `moejax WORDS` in this process: exit code, stdout and stderr."""
  monkeypatch.setattr(interrupts, 'end_on_second', lambda code: None)

  # As in a fresh process, where nothing has imported the command.
  monkeypatch.delitem(sys.modules, 'moejax.cli.config', raising=False)

  def start(*words):
    monkeypatch.setattr(sys, 'argv', ['/bin/moejax', *words])
    monkeypatch.setattr(sys, 'orig_argv', ['python', '/bin/moejax', *words])
    with pytest.raises(SystemExit) as ended:
      dispatch.start()
    out, err = capsys.readouterr()
    return ended.value.code, out, err

  return start


def test_a_command_runs_with_the_words_behind_it(start):
  code, out, err = start('config', '--list=opt.peak_lr')
  assert (code, err) == (0, '')
  assert out.startswith('opt.peak_lr=')


def test_the_exit_code_and_the_line_are_those_of_the_command(start):
  code, out, err = start('config', '--list=no.such.key')
  assert (code, out) == (exits.BAD_INPUT, '')
  assert err.startswith("error: unknown config key 'no.such.key'")


def test_start_shows_help_without_running_the_command(start, monkeypatch):
  monkeypatch.setattr(runpy, 'run_module', None)
  assert start('train', '--config=tiny', '--help')[1].startswith('usage: moe')
  assert start('tarin')[0] == exits.BAD_INPUT


def _raises(error):
  def run_module(*args, **kwargs):
    raise error

  return run_module


def test_a_package_that_cannot_be_imported_points_at_doctor(start, monkeypatch):
  error = ImportError("cannot import name 'x' from 'jax'", name='jax')
  monkeypatch.setattr(runpy, 'run_module', _raises(error))
  code, out, err = start('train', '--config=tiny')
  assert (code, out) == (exits.BAD_INPUT, '')
  (line,) = err.splitlines()
  assert line.startswith("error: cannot import name 'x' from 'jax'; ")
  assert line.endswith('moejax doctor says what is wrong')


@pytest.mark.parametrize(
  ('name', 'words'), [('moejax.run.gone', []), ('jax', ['--trace'])]
)
def test_a_bug_and_a_trace_stay_what_they_are(name, words, start, monkeypatch):
  error = ImportError('no', name=name)
  monkeypatch.setattr(runpy, 'run_module', _raises(error))
  monkeypatch.setattr(sys, 'argv', ['/bin/moejax', 'train', *words])
  with pytest.raises(ImportError, match='no'):
    dispatch.start()


@pytest.mark.parametrize(
  ('module', 'words', 'program'),
  [
    ('moejax.cli.count', ['-m', 'moejax.cli.count'], None),
    ('moejax.cli.count', ['/bin/moejax', 'count'], 'moejax count'),
    ('moejax.cli.count', ['-m', 'moejax', 'count', '-m'], 'moejax count'),
    ('moejax.main', ['/bin/moejax', 'train'], 'moejax train'),
    ('moejax.main', ['-X', 'dev', '-m', 'moejax.main'], None),
    (
      'moejax.research.order.__main__',
      ['-m', 'moejax.research.order'],
      'python -m moejax.research.order',
    ),
    ('benchmarks.step', ['-m', 'benchmarks.step'], None),
  ],
)
def test_usage_lines_name_the_command_as_it_was_started(
  module, words, program, monkeypatch
):
  main = types.ModuleType('__main__')
  main.__spec__ = importlib.machinery.ModuleSpec(module, None)
  monkeypatch.setitem(sys.modules, '__main__', main)
  monkeypatch.setattr(sys, 'orig_argv', ['/usr/bin/python', *words])
  program = program or f'python -m {module}'
  assert command.parser('Does.').format_usage().startswith(f'usage: {program} ')


def test_pip_makes_the_command_of_a_function_that_is_there():
  setup = configparser.ConfigParser()
  setup.read(ROOT / 'setup.cfg')
  line = setup['options.entry_points']['console_scripts'].strip()
  assert line == 'moejax = moejax.__main__:main'
  from moejax import __main__

  assert callable(__main__.main)
