"""The commands and files that the README names exist."""

import importlib.util
import pathlib
import re
import subprocess

ROOT = pathlib.Path(__file__).parents[1]
README = ROOT / 'README.md'


def test_every_module_that_the_readme_runs_exists():
  text = README.read_text()
  modules = set(re.findall(r'python -m ((?:moejax|benchmarks)[\w.]+)', text))
  assert {'moejax.main', 'moejax.cli.generate'} <= modules
  for module in modules:
    assert importlib.util.find_spec(module), module


def test_every_file_that_the_readme_names_exists():
  text = README.read_text()
  for path in re.findall(r'(?:configs|tests|docs)/[\w/]+\.(?:py|md)', text):
    assert (ROOT / path).exists(), path


def test_make_knows_every_target_that_the_readme_names():
  targets = set(re.findall(r'^make (\w+)', README.read_text(), re.MULTILINE))
  assert targets == {'demo', 'test'}
  for target in targets:
    done = subprocess.run(
      ['make', '--dry-run', target], cwd=ROOT, capture_output=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_ci_runs_the_readmes_own_test_command():
  assert '\nmake test\n' in (ROOT / '.ci' / 'run').read_text()
