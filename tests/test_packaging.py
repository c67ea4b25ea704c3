"""The files about moejax as a package agree with setup.cfg and the Makefile."""

import configparser
import fnmatch
import pathlib
import re

import pytest
import yaml

import moejax

ROOT = pathlib.Path(__file__).parents[1]
SETUP = configparser.ConfigParser()
SETUP.read(ROOT / 'setup.cfg', encoding='utf-8')
EXTRAS = {*SETUP['options.extras_require']}
DOCKERFILES = sorted((ROOT / 'tpu_scripts').glob('*.Dockerfile'))
# What a reader or a machine takes the names of extras from.
NAMING = [
  *ROOT.glob('*.md'),
  *(ROOT / 'docs').glob('*.md'),
  *(ROOT / 'moejax').rglob('*.py'),
  *DOCKERFILES,
  ROOT / 'Makefile',
]


def extras_in(text):
  """Names of extras, in small letters: moejax[a,b], '.[a]', install,[a]."""
  lists = re.findall(r'(?:moejax|\'\.|install,)\[([a-z_$(), -]+)\]', text)
  return {
    name.strip()
    for one in lists
    for name in one.replace('$(comma)', ',').split(',')
  }


def test_the_names_of_extras_are_found():
  text = "pip install 'moejax[a]' -e '.[b,c_d]' $(call install,[e$(comma)f])"
  assert extras_in(text) == {'a', 'b', 'c_d', 'e', 'f'}


def test_every_extra_that_is_named_is_in_setup_cfg():
  named = {
    extra: path.name
    for path in NAMING
    for extra in extras_in(path.read_text(encoding='utf-8'))
  }
  assert len(named) > 8
  assert {e: at for e, at in named.items() if e not in EXTRAS} == {}


def test_the_citation_has_the_version_and_the_licence():
  cited = yaml.safe_load((ROOT / 'CITATION.cff').read_text(encoding='utf-8'))
  assert cited['version'] == moejax.__version__
  assert cited['license'] == SETUP['metadata']['license']
  required = {'cff-version', 'message', 'title', 'authors'}
  assert required <= cited.keys()


def test_the_package_has_types():
  assert (ROOT / 'moejax' / 'py.typed').exists()
  assert 'py.typed' in SETUP['options.package_data']['moejax'].split()


@pytest.fixture(scope='module')
def workflow():
  path = ROOT / '.github' / 'workflows' / 'ci.yml'
  return yaml.safe_load(path.read_text(encoding='utf-8'))


def test_the_workflow_takes_every_python_that_make_takes(workflow):
  makefile = (ROOT / 'Makefile').read_text(encoding='utf-8')
  (line,) = re.findall(r'^PYTHONS = (.*)$', makefile, re.MULTILINE)
  tested = workflow['jobs']['test']['strategy']['matrix']['python']
  assert sorted(tested) == sorted(line.split())
  assert SETUP['options']['python_requires'] == f'>={min(tested)}'


def test_the_workflow_calls_targets_of_the_makefile(workflow):
  makefile = (ROOT / 'Makefile').read_text(encoding='utf-8')
  runs = [
    step['run']
    for job in workflow['jobs'].values()
    for step in job['steps']
    if 'run' in step
  ]
  called = [run.split()[1] for run in runs if run.startswith('make ')]
  assert sorted(called) == ['docs', 'lint', 'test']
  for target in called:
    assert re.search(rf'^{target}:', makefile, re.MULTILINE)


def ignored(name):
  """Whether .dockerignore keeps a path at the top from the builder."""
  lines = (ROOT / '.dockerignore').read_text(encoding='utf-8').splitlines()
  kept = True
  for line in lines:
    if line and line[0] != '#' and fnmatch.fnmatch(name, line.lstrip('!')):
      kept = line[0] == '!'
  return not kept


@pytest.mark.parametrize('path', DOCKERFILES, ids=lambda path: path.name)
def test_a_dockerfile_copies_what_is_there(path):
  copies = re.findall(r'^COPY (.+) \S+$', path.read_text(), re.MULTILINE)
  sources = [source for copy in copies for source in copy.split()]
  assert len(sources) >= 6
  for source in sources:
    assert (ROOT / source).exists(), source
    assert not ignored(source.split('/')[0]), source


def test_what_is_private_or_large_is_not_sent_to_the_builder():
  for name in ('.git', '.venv', 'runs', 'tests'):
    assert ignored(name), name


def test_issue_templates_have_a_name_and_say_what_for():
  templates = sorted((ROOT / '.github' / 'ISSUE_TEMPLATE').glob('*.md'))
  assert len(templates) >= 2
  for path in templates:
    _, head, body = path.read_text(encoding='utf-8').split('---\n', 2)
    assert yaml.safe_load(head).keys() == {'name', 'about'}
    assert body.strip()
