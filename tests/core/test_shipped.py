"""Names of the configs that moejax ships, and the files of a wheel."""

import os
import pathlib
import shutil
import subprocess
import sys

import pytest

from moejax import config
from moejax.core import errors, shipped
from moejax.sweep import sweep_file

ROOT = pathlib.Path(__file__).parents[2]
TINY = ROOT / 'configs' / 'tiny.py'


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
  """A working folder without `configs/`, as of somebody who ran pip."""
  monkeypatch.chdir(tmp_path)
  return tmp_path


def test_every_shipped_file_has_a_name_and_is_found_by_it():
  files = {path for path in (ROOT / 'configs').rglob('*.py')}
  found = {
    pathlib.Path(shipped.find(name, kind))
    for kind in ('config', 'sweep')
    for name in shipped.names(kind)
  }
  assert found == files
  assert 'hf/chat' in shipped.names('config')
  assert not any('sweeps' in name for name in shipped.names('config'))
  assert 'routers' in shipped.names('sweep')


@pytest.mark.parametrize(
  ('path', 'found'),
  [
    ('tiny', str(TINY)),
    ('hf/chat', str(ROOT / 'configs' / 'hf' / 'chat.py')),
    ('tiny.py', 'tiny.py'),  # says a file, and none is there
    ('/tiny', '/tiny'),
    ('../tiny', '../tiny'),
    ('routers', 'routers'),  # a sweep
    ('', ''),
  ],
)
def test_a_name_is_the_shipped_file_and_a_path_stays(path, found):
  assert shipped.find(path, 'config') == found


def test_the_users_own_file_comes_first(elsewhere):
  (elsewhere / 'tiny').mkdir()  # a folder is no config
  assert shipped.find('tiny', 'config') == str(TINY)
  (elsewhere / 'tiny.py').write_text('')
  assert shipped.find('tiny', 'config') == 'tiny.py'
  (elsewhere / 'tiny').rmdir()
  (elsewhere / 'tiny').write_text('')
  assert shipped.find('tiny', 'config') == 'tiny'


def test_a_run_by_name_is_the_run_of_the_file():
  assert config.load('tiny') == config.load(str(TINY))
  by_name = config.load('ds_145b:half:tiny')
  assert by_name == config.load(str(TINY.with_name('ds_145b.py:half:tiny')))
  assert config.default_workdir('ds_145b:half:tiny') == os.path.join(
    'runs', 'ds_145b-half-tiny'
  )


def test_a_sweep_by_name_is_the_sweep_of_the_file():
  path = ROOT / 'configs' / 'sweeps' / 'compress.py'
  assert sweep_file.load('compress') == sweep_file.load(str(path))


@pytest.mark.parametrize(
  ('kind', 'path', 'message'),
  [
    ('config', 'tinny', "unknown config 'tinny'; did you mean 'tiny'? known"),
    ('config', 'hf/chta', "unknown config 'hf/chta'; did you mean 'hf/chat'?"),
    ('sweep', 'ruoters', "unknown sweep 'ruoters'; did you mean 'routers'?"),
    (
      'config',
      'configs/tiny.py',
      "no file 'configs/tiny.py' here; moejax ships it: --config=tiny",
    ),
    (
      'config',
      '/a/configs/hf/chat.py',
      "no file '/a/configs/hf/chat.py' here; moejax ships it: --config=hf/chat",
    ),
    (
      'sweep',
      'configs/sweeps/routers.py',
      "no file 'configs/sweeps/routers.py' here; moejax ships it: "
      '--sweep=routers',
    ),
    ('config', 'configs/tinny.py', "no config file 'configs/tinny.py', nor an"),
    ('config', 'configs.py', "no config file 'configs.py', nor any beside it"),
  ],
)
def test_what_is_not_there_names_what_is(kind, path, message):
  load = {'config': config.load, 'sweep': sweep_file.load}[kind]
  with pytest.raises(errors.InputError) as error:
    load(path)
  assert str(error.value).startswith(message)


def test_an_error_of_a_shipped_config_has_the_name_that_was_given():
  with pytest.raises(errors.InputError, match='^tiny takes nothing behind the'):
    config.load('tiny:large')
  with pytest.raises(
    errors.InputError, match="variant 'halv'; did you mean 'half'"
  ):
    config.load('ds_145b:halv')


def test_the_folder_of_a_checkout_and_of_a_wheel(elsewhere):
  """Beside an installed package `configs` is the folder of somebody else."""
  package = elsewhere / 'moejax'
  package.mkdir()
  (elsewhere / 'configs').mkdir()
  assert shipped.folder(package) is None
  (elsewhere / 'setup.cfg').write_text('')
  assert shipped.folder(package) == elsewhere / 'configs'
  (package / 'configs').mkdir()
  assert shipped.folder(package) == package / 'configs'


def test_a_build_has_the_configs_within_the_package(elsewhere):
  shutil.copy(ROOT / 'setup.py', elsewhere)
  (elsewhere / 'setup.cfg').write_text('[options]\npackages = moejax\n')
  (elsewhere / 'moejax').mkdir()
  (elsewhere / 'moejax' / '__init__.py').write_text('')
  (elsewhere / 'configs' / 'hf').mkdir(parents=True)
  (elsewhere / 'configs' / 'tiny.py').write_text('a = 1\n')
  (elsewhere / 'configs' / 'hf' / 'chat.py').write_text('b = 2\n')
  subprocess.run(
    [sys.executable, 'setup.py', '-q', 'build_py', '--build-lib=out'],
    check=True,
  )
  built = elsewhere / 'out' / 'moejax' / 'configs'
  assert (built / 'tiny.py').read_text() == 'a = 1\n'
  assert (built / 'hf' / 'chat.py').read_text() == 'b = 2\n'
