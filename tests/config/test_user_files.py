"""Config and sweep files that do not work: one line, and a trace on request."""

import os
import pathlib
import sys

import pytest

from moejax import config, main
from moejax.cli import count, plan, sweep
from moejax.core import errors, exits

ROOT = pathlib.Path(__file__).parents[2]
HEAD = 'from moejax import config\n'
RAISES = {
  'def get_config(:\n': 'my.py:1: SyntaxError: invalid syntax',
  'def get_config():\npass\n': 'my.py:2: IndentationError: expected an indent',
  'import not_there\n': "my.py:1: ModuleNotFoundError: No module named 'not_",
  '\nx = 1 / 0\n': 'my.py:2: ZeroDivisionError: division by zero',
  'x = {}["a"]\n': 'my.py:1: KeyError: a',
  'open("/not/there")\n': 'my.py:1: FileNotFoundError: [Errno 2] No such file',
  'raise SystemExit(3)\n': 'my.py:1: SystemExit: 3',
  'x = "\0"\n': 'my.py:1: SyntaxError: source code',
  'def get_config():\n  return helper()\n'
  'def helper():\n  raise ValueError("a\\nb")\n': 'my.py:4: ValueError: a b',
  'def get_config(a, b):\n  pass\n': 'my.py: TypeError: get_config() missing 1',
  HEAD + 'def get_config():\n  c = config.default()\n'
  '  c.model.widht += 3\n': "my.py:4: AttributeError: 'widht' Did you mean",
  HEAD + 'def get_config():\n  c = config.default()\n'
  '  c.model.width = "x"\n': 'my.py:4: TypeError: ',
  'get_config = 3\n': 'my.py has no function get_config()',
  'x = 3\n': 'my.py has no function get_config()',
}


@pytest.mark.parametrize('text', RAISES)
def test_a_config_that_raises_is_one_line_with_its_place(
  text, tmp_path, monkeypatch
):
  monkeypatch.chdir(tmp_path)
  (tmp_path / 'my.py').write_text(text)
  with pytest.raises(errors.InputError) as error:
    config.load('my.py')
  assert str(error.value).startswith(RAISES[text]), str(error.value)
  assert '\n' not in str(error.value)


def test_the_place_is_in_the_users_own_module_that_the_config_imports(
  tmp_path, monkeypatch
):
  monkeypatch.syspath_prepend(tmp_path)
  (tmp_path / 'my_own_helper.py').write_text('import json\n\njson.loads("{")\n')
  (tmp_path / 'my.py').write_text('import my_own_helper\n')
  with pytest.raises(errors.InputError) as error:
    config.load(os.fspath(tmp_path / 'my.py'))
  place = f'{tmp_path}/my_own_helper.py:3: JSONDecodeError: Expecting property'
  assert str(error.value).startswith(place)


def test_a_file_that_changed_a_moment_ago_is_read_again(tmp_path, monkeypatch):
  monkeypatch.setattr(sys, 'dont_write_bytecode', False)
  file = tmp_path / 'my.py'
  for steps in (3, 5, 7):  # texts of one length, and of one second
    file.write_text(
      HEAD + 'def get_config():\n  c = config.default()\n'
      f'  c.train.steps = {steps}\n  return c\n'
    )
    os.utime(file, (10**9, 10**9))
    assert config.load(os.fspath(file)).train.steps == steps
  assert [*tmp_path.iterdir()] == [file]


COMMANDS = {
  'main': (main.main, '--config'),
  'count': (count.main, '--config'),
  'plan': (plan.main, '--topology=cpu:1', '--config'),
  'sweep': (sweep.main, '--sweep'),
}


@pytest.mark.parametrize('name', COMMANDS)
def test_every_command_says_it_in_one_line_and_traces_the_file_alone(
  name, tmp_path, monkeypatch, capsys
):
  monkeypatch.chdir(tmp_path)
  (tmp_path / 'my.py').write_text('def f():\n  return 1 / 0\n\nf()\n')
  run, *flags = COMMANDS[name]
  flags[-1] += '=my.py'
  line = 'error: my.py:2: ZeroDivisionError: division by zero\n'
  assert exits.call(run, flags) == exits.BAD_INPUT
  assert capsys.readouterr().err == line
  assert exits.call(run, ['--trace', *flags]) == exits.BAD_INPUT
  trace, _, last = capsys.readouterr().err.rpartition('error: ')
  assert last == line.removeprefix('error: ')
  assert 'line 4, in <module>' in trace
  assert 'line 2, in f' in trace
  assert 'moejax' not in trace
  assert 'importlib' not in trace


def test_a_sweep_names_the_place_in_the_config_of_a_run(
  tmp_path, monkeypatch, capsys
):
  monkeypatch.chdir(tmp_path)
  (tmp_path / 'my.py').write_text('def get_config():\n  return nothing\n')
  (tmp_path / 'all.py').write_text(
    'from moejax import sweep\ndef get_sweep():\n  return sweep.run("my.py")\n'
  )
  flags = ['--sweep=all.py', '--trace']
  assert exits.call(sweep.main, flags) == exits.BAD_INPUT
  err = capsys.readouterr().err
  assert "all.py:3: run 'my': my.py:2: NameError: name 'nothing' is not" in err
  assert 'line 2, in get_config' in err


SWEEP = """from moejax import sweep

def get_sweep():
  runs = sweep.run('CONFIG', {'train.steps': 5}, name='tiny')
  runs = sweep.product(
    runs, {'opt.peak_lr': [1e-3, 'high']})
  return sweep.change(runs, {'train.stepz': 3})
"""


@pytest.mark.parametrize(
  ('text', 'line'),
  [
    (SWEEP, "all.py:7: run 'tiny-peak_lr=0.001': unknown config key"),
    (
      SWEEP.replace('stepz', 'steps'),
      "all.py:5: run 'tiny-peak_lr=high': config key 'opt.peak_lr' wants a",
    ),
    (
      'from moejax import config\ndef get_sweep():\n'
      '  return config.vary(config.default(), {"a": {}}, "b")\n',
      "all.py:3: unknown variant 'b'",
    ),
  ],
)
def test_an_error_of_a_sweep_has_the_line_of_what_is_wrong(
  text, line, tmp_path, monkeypatch, capsys
):
  monkeypatch.chdir(tmp_path)
  tiny = f'{ROOT}/configs/tiny.py:tiny'
  (tmp_path / 'all.py').write_text(text.replace('CONFIG', tiny))
  assert exits.call(sweep.main, ['--sweep=all.py']) == exits.BAD_INPUT
  assert capsys.readouterr().err.startswith(f'error: {line}')


PLACES = {
  '': 'no config file is named: the path is empty',
  'folder.py': "'folder.py' is a folder, not a config file; in it are a.py",
  'folder': "no file 'folder', and 'folder.py' is a folder, not a config file",
  'fodler': "unknown config 'fodler'; known are: deepseek_v3, dense_2b, ds_1",
  'empty': "'empty' is a folder, not a config file, without any .py file",
  'text.txt': "'text.txt' is not a config file: those are Python and en",
  'mine': 'mine has no function get_config()',
  'mein': "unknown config 'mein'; did you mean 'mine'? known are: deepseek_",
  'link.py': "config file 'link.py' is a link to 'gone.py', which is no",
  'mien.py': "no file 'mien.py': unknown config file 'mien'; did you mean 'm",
  'empty/a.py': "no config file 'empty/a.py', nor any beside it",
  os.devnull: f"'{os.devnull}' is no regular file, so no config file",
}


@pytest.mark.parametrize('path', PLACES)
def test_what_is_no_python_file_is_called_what_it_is(
  path, tmp_path, monkeypatch
):
  monkeypatch.chdir(tmp_path)
  for name in ('folder.py', 'empty'):
    (tmp_path / name).mkdir()
  for name in ('folder.py/a.py', 'folder.py/b.py', 'text.txt', 'mine.py'):
    (tmp_path / name).write_text('')
  (tmp_path / 'link.py').symlink_to('gone.py')
  with pytest.raises(errors.InputError) as error:
    config.load(path)
  assert str(error.value).startswith(PLACES[path])


def test_a_file_that_cannot_be_read_says_why(tmp_path, monkeypatch):
  file = tmp_path / 'my.py'
  file.write_text('')

  def refuse(self):
    raise PermissionError(13, 'Permission denied')

  monkeypatch.setattr('pathlib.Path.read_bytes', refuse)
  with pytest.raises(errors.InputError) as error:
    config.load(os.fspath(file))
  assert str(error.value) == (
    f'config file {os.fspath(file)!r} cannot be read: Permission denied'
  )
