"""What each package and each extra is found to be."""

import configparser
import pathlib
import re

import pytest

from moejax.doctor import packages
from moejax.doctor.finding import BROKEN, MISSING, OK

ROOT = pathlib.Path(__file__).parents[2]
# A former name of another extra.
FORMER = {'fineweb_edu'}


def _setup(section, key):
  setup = configparser.ConfigParser()
  setup.read(ROOT / 'setup.cfg')
  lines = setup[section][key].strip().splitlines()
  return {
    re.match(r'[\w.-]+(\[[\w,]+\])?', line)[0]
    for line in lines
    if line and not line.startswith('#')
  }


def test_the_packages_are_those_that_pip_installs():
  wanted = {
    name.partition('[')[0] for name in _setup('options', 'install_requires')
  }
  # JAX brings it.
  assert {*packages.REQUIRED} == wanted | {'jaxlib'}


def test_the_extras_are_those_that_pip_knows():
  setup = configparser.ConfigParser()
  setup.read(ROOT / 'setup.cfg')
  extras = {*setup['options.extras_require']} - FORMER
  assert {*packages.EXTRAS} == extras


# pip's names for what these extras of JAX bring.
OF_JAX = {'tpu': {'libtpu'}, 'gpu': {'jax-cuda13-plugin'}}


@pytest.mark.parametrize('name', packages.EXTRAS)
def test_an_extra_has_the_packages_that_pip_installs_for_it(name):
  wanted = OF_JAX.get(name) or _setup('options.extras_require', name)
  if name == 'test':  # which brings some of what other extras have
    for other, extra in packages.EXTRAS.items():
      if other != name:
        wanted = wanted - {*extra.modules}
    wanted = {one for one in wanted if '[' not in one}
  if name == 'beam':  # an older one of what all have
    wanted -= {'sentencepiece'}
  assert {*packages.EXTRAS[name].modules} == wanted


def _all_well(modules):
  return ((module, '') for module in modules)


def _versions(monkeypatch, changed):
  """Every package has version 9, no plug-in is there, but for those named."""

  def version(name):
    return changed.get(name, '' if name.startswith('jax-') else '9')

  monkeypatch.setattr(packages, 'version', version)


def _required(errors=_all_well, least=None):
  found = [*packages.required(errors, least or {})]
  return {one.name: one for one in found}


def test_packages_that_work_have_their_versions(monkeypatch):
  _versions(monkeypatch, {'jax': '0.12.0.1'})
  found = _required(least={'jax': '0.12', 'flax': '9'})
  assert {one.state for one in found.values()} == {OK}
  assert found['jax'].text == '0.12.0.1'


def test_a_package_that_raises_is_broken_with_the_command_that_mends_it(
  monkeypatch,
):
  _versions(monkeypatch, {'optax': ''})

  def errors(modules):
    bad = {'jax': 'RuntimeError: jaxlib is 0.7', 'optax': 'ModuleNotFoundErr'}
    return ((module, bad.get(module, '')) for module in modules)

  found = _required(errors, {'optax': '0.2.6'})
  broken = {n: one for n, one in found.items() if one.state == BROKEN}
  assert {*broken} == {'jax', 'optax'}
  assert ' '.join(broken['jax'].line().split()) == (
    'jax BROKEN: RuntimeError: jaxlib is 0.7: pip install --force-reinstall '
    "'jax'"
  )
  assert broken['optax'].text == 'not installed'
  assert broken['optax'].remedy == "pip install 'optax>=0.2.6'"


@pytest.mark.parametrize(
  ('installed', 'least', 'state'),
  [
    ('0.9.2', '0.10', BROKEN),
    ('0.10', '0.10', OK),
    ('0.10.0', '0.10', OK),
    ('1.0rc1', '0.10', OK),
    ('0.10.0.dev3', '0.10.1', BROKEN),
  ],
)
def test_a_package_below_its_least_version_is_broken(
  installed, least, state, monkeypatch
):
  _versions(monkeypatch, {'jax': installed})
  one = _required(least={'jax': least})['jax']
  assert one.state == state
  if state == BROKEN:
    assert one.text == f'{installed} is older than {least}'
    assert one.remedy == f"pip install --upgrade 'jax>={least}'"


def test_packages_without_a_wheel_here_are_not_broken(monkeypatch):
  """setup.cfg leaves them out on Windows and from Python 3.14 on."""
  assert packages.reads_text((3, 13), 'linux')
  assert not packages.reads_text((3, 14), 'linux')
  assert not packages.reads_text((3, 11), 'win32')
  setup = configparser.ConfigParser()
  setup.read(ROOT / 'setup.cfg')
  lines = setup['options']['install_requires'].splitlines()
  left_out = {re.match(r'\w+', one)[0] for one in lines if 'win32' in one}
  assert {*packages.OF_TEXT} == left_out
  _versions(monkeypatch, {'pyarrow': '', 'flax': ''})
  monkeypatch.setattr(packages, 'reads_text', lambda: False)
  found = _required(lambda modules: ((one, 'no') for one in modules))
  assert found['pyarrow'].state == MISSING
  assert 'cache' in found['pyarrow'].text
  assert found['flax'].state == found['tokenizers'].state == BROKEN
  monkeypatch.setattr(packages, 'reads_text', lambda: True)
  found = _required(lambda modules: ((one, 'no') for one in modules))
  assert found['pyarrow'].state == BROKEN


@pytest.mark.parametrize(
  ('plugin', 'state'),
  [('0.7.2', BROKEN), ('0.12.0', OK), ('0.12.0.2', OK), ('', None)],
)
def test_a_plugin_of_another_version_is_what_leaves_a_gpu_idle(
  plugin, state, monkeypatch
):
  _versions(monkeypatch, {'jax': '0.12.0.1', 'jax-cuda12-plugin': plugin})
  one = _required().get('jax-cuda12-plugin')
  assert (one and one.state) == state
  if state == BROKEN:
    assert 'computes on the CPU' in one.text
    assert one.remedy == "pip install 'jax-cuda12-plugin==0.12.0.1'"


def test_least_versions_are_those_of_what_every_run_needs():
  lines = [
    'absl-py>=2',
    'etils[epath]',
    'jax>=0.10',
    'pyarrow>=15; python_version < "3.14" and sys_platform != "win32"',
    'matplotlib>=3.8; extra == "plot"',
    'torch >= 2.6.0',
  ]
  assert packages.least_versions(lines) == {
    'absl-py': '2',
    'jax': '0.10',
    'pyarrow': '15',
    'torch': '2.6.0',
  }


def test_a_feature_names_what_it_lacks_and_the_command(monkeypatch):
  _versions(monkeypatch, {'tensorflow-text': '', 'lm_eval': ''})
  monkeypatch.setattr(packages.importlib.util, 'find_spec', lambda name: None)
  found = {one.name: one for one in packages.features()}
  assert {*found} == {*packages.EXTRAS}
  lacking = {name for name, one in found.items() if one.state == MISSING}
  assert lacking == {'seqio', 'gpu', 'gpu_plan', 'harness'}
  assert found['seqio'].text.endswith('; missing: tensorflow-text')
  assert found['seqio'].remedy == "pip install 'moejax[seqio]'"
  assert found['plot'].state == OK
