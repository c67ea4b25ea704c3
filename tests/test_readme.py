"""The README is short, and every command, module and file in it exists."""

import importlib.util
import pathlib
import re
import subprocess

import pytest

ROOT = pathlib.Path(__file__).parents[1]
README = ROOT / 'README.md'
MAX_BYTES = 12 * 1024
# The changelog names what was, too.
DOCUMENTS = [
  README,
  ROOT / 'CONTRIBUTING.md',
  *sorted((ROOT / 'docs').glob('*.md')),
  *sorted((ROOT / 'docs' / 'howto').glob('*.md')),
]
EACH_DOCUMENT = pytest.mark.parametrize(
  'page', DOCUMENTS, ids=lambda page: page.name
)
FOLDERS = r'(?:moejax|benchmarks|configs|docs|tests|tpu_scripts)'
FILE = re.compile(rf'(?<![\w/.]){FOLDERS}/[\w/.-]+\.(?:py|md|sh|svg|png)')


def missing_files(text):
  return [name for name in FILE.findall(text) if not (ROOT / name).exists()]


def missing_modules(text):
  """Modules that `python -m` is to run; those of other projects too."""
  names = set(re.findall(r'python -m ((?:moejax|benchmarks)[\w.]*)', text))
  return [name for name in names if not importlib.util.find_spec(name)]


def missing_targets(text):
  """Targets of `make` that the Makefile does not have."""
  names = set(re.findall(r'(?:^|`)make ([\w-]+)', text, re.MULTILINE))
  known = re.findall(r'^([\w-]+):', (ROOT / 'Makefile').read_text(), re.M)
  return sorted(names - set(known))


def test_the_readme_is_short():
  assert len(README.read_bytes()) <= MAX_BYTES


def test_the_readme_has_two_commands_that_make_knows():
  targets = re.findall(r'^make ([\w-]+)', README.read_text(), re.MULTILINE)
  assert targets == ['demo', 'test']
  for target in targets:
    done = subprocess.run(
      ['make', '--dry-run', target], cwd=ROOT, capture_output=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert b'Nothing to be done' not in done.stdout, f'no rule for {target}'


@EACH_DOCUMENT
def test_every_module_that_a_page_runs_exists(page):
  assert missing_modules(page.read_text()) == []


@EACH_DOCUMENT
def test_every_file_that_a_page_names_exists(page):
  assert missing_files(page.read_text()) == []


@EACH_DOCUMENT
def test_make_knows_every_target_that_a_page_names(page):
  assert missing_targets(page.read_text()) == []


def test_contributors_find_every_file_and_folder():
  text = (ROOT / 'CONTRIBUTING.md').read_text()
  names = re.findall(r'`(\w+/[\w/]*(?:\.(?:py|md))?)`', text)
  assert len(names) > 10
  for name in names:
    assert (ROOT / name).exists() or (ROOT / 'moejax' / name).exists(), name


def test_what_is_missing_is_found():
  assert missing_files('see `moejax/moe/nothing.py`') == [
    'moejax/moe/nothing.py'
  ]
  assert missing_modules('python -m moejax.cli.nothing') == [
    'moejax.cli.nothing'
  ]
  assert missing_targets('`make nothing`\nmake nowhere') == [
    'nothing',
    'nowhere',
  ]


def test_ci_runs_the_readmes_own_test_command():
  assert '\nmake test\n' in (ROOT / '.ci' / 'run').read_text()
