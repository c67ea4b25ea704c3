"""Every benchmark is a command of its own, and is listed."""

import importlib
import pathlib
import re

import pytest

import benchmarks
from moejax.core import exits

ROOT = pathlib.Path(benchmarks.__file__).parent
LISTED = re.findall(r'python -m benchmarks\.(\w+)', benchmarks.__doc__)


def test_those_listed_are_those_with_a_command():
  commands = [
    path.stem
    for path in ROOT.glob('*.py')
    if 'def main(argv' in path.read_text(encoding='utf-8')
  ]
  assert sorted(LISTED) == sorted(commands)


@pytest.mark.parametrize('name', LISTED)
def test_its_help_shows_its_command(name, capsys):
  module = importlib.import_module(f'benchmarks.{name}')
  with pytest.raises(SystemExit):
    module.main(['--help'])
  assert f'python -m benchmarks.{name}' in capsys.readouterr().out
  assert exits.call(module.main, ['--no_such']) == exits.BAD_INPUT
  assert 'unrecognized arguments: --no_such' in capsys.readouterr().err


def test_each_runs_as_a_module():
  for name in LISTED:
    text = (ROOT / f'{name}.py').read_text(encoding='utf-8')
    end = "\n\nif __name__ == '__main__':\n  {}\n"
    # After Ctrl-C only one keeps what it had written; timing.main knows that.
    mains = (
      'exits.main(main)',
      'exits.main(main, keeps=False)',
      'timing.main(main)',
    )
    assert text.endswith(tuple(map(end.format, mains))), name
