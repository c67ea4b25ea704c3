"""Plugins: a router in a file of one's own, chosen, kept, and refused."""

import shutil

import pytest

from moejax import config as configs
from moejax.config import kept_tokenizer, plugins
from moejax.core import config_tree, errors, files, table
from moejax.moe.routers import ROUTERS

TEXT = '''"""The least probable experts."""

import dataclasses

import jax
import jax.numpy as jnp

from moejax.moe import contract


@dataclasses.dataclass(frozen=True)
class Last(contract.Router):
  """The least probable experts, all with weight 1."""

  k: int = 2

  @property
  def experts_per_token(self) -> float:
    return self.k

  def __call__(self, inputs: contract.RouterInput) -> contract.Routing:
    prob_TE = jax.nn.softmax(inputs.logits_TE)
    _, expert_TK = jax.lax.top_k(-prob_TE, self.k)
    weight_TK = jnp.ones(expert_TK.shape)
    return contract.token_choice(inputs, expert_TK, weight_TK, prob_TE)


ROUTERS = {'last': Last}
'''
FLAGS = [('plugin', 'my.py'), ('model.moe.router', 'last')]


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
  """An empty current folder; added routers are taken out afterwards."""
  monkeypatch.chdir(tmp_path)
  yield tmp_path
  for name in [name for name, cls in ROUTERS.items() if table.is_added(cls)]:
    del ROUTERS[name]


def write(folder, text=TEXT):
  (folder / 'my.py').write_text(text)


def load(workdir='', *flags):
  return configs.load('tiny:tiny', [*FLAGS, *flags], str(workdir))


def begin(workdir, run):
  """Makes a workdir what a run with a checkpoint leaves."""
  (workdir / kept_tokenizer.CHECKPOINTS / '00000010').mkdir(parents=True)
  plugins.keep(run.plugin, workdir)
  tree = config_tree.to_dict(run)
  files.atomic_write_json(workdir / kept_tokenizer.CONFIG, tree)


def test_a_router_of_a_plugin_is_chosen_by_name_and_has_its_keys(here):
  write(here)
  run = load('', ('model.moe.router.k', '3'))
  assert type(run.model.moe.router).__name__ == 'Last'
  assert run.model.moe.router.k == 3
  tree = config_tree.to_dict(run)
  assert tree['model']['moe']['router'] == {'name': 'last', 'k': 3}


def test_a_config_file_can_name_the_plugin(here):
  write(here)
  (here / 'mine.py').write_text(
    'from moejax import config\n\n\ndef get_config():\n'
    '  c = config.default()\n  c.plugin = "my.py"\n'
    '  c.model.moe.num_experts = 8\n'
    '  c.model.moe.router = {"name": "last", "k": 4}\n  return c\n'
  )
  assert configs.load('mine.py').model.moe.router.k == 4


def test_a_plugin_may_lie_below_home(here, monkeypatch):
  """A shell leaves the ~ of --config.plugin=~/my.py as it is."""
  (here / 'me').mkdir()
  write(here / 'me')
  monkeypatch.setenv('HOME', str(here / 'me'))
  flags = [('plugin', '~/my.py'), ('model.moe.router', 'last')]
  assert configs.load('tiny:tiny', flags).plugin == str(here / 'me' / 'my.py')


def test_a_plugin_lies_beside_the_config_file_that_names_it(here):
  (here / 'lab').mkdir()
  write(here / 'lab')
  (here / 'lab' / 'mine.py').write_text(
    'from moejax import config\n\n\ndef get_config():\n'
    '  c = config.default()\n  c.plugin = "my.py"\n  return c\n'
  )
  assert configs.load('lab/mine.py').plugin == 'lab/my.py'
  # A flag names a path of the current folder.
  write(here, TEXT.replace("'last'", "'here'"))
  flags = [('plugin', 'my.py'), ('model.moe.router', 'here')]
  assert configs.load('lab/mine.py', flags).plugin == 'my.py'


def test_a_moved_workdir_is_opened_with_its_own_copy(here):
  write(here)
  begin(here / 'work', load())
  shutil.move(here / 'work', here / 'moved')
  (here / 'my.py').unlink()
  del ROUTERS['last']
  run = configs.of_workdir('moved')
  assert type(run.model.moe.router).__name__ == 'Last'
  assert run.plugin == 'moved/plugin/my.py'


def test_a_workdir_is_used_with_what_it_was_trained_with(here):
  write(here)
  begin(here / 'work', load())
  write(here, TEXT.replace('k: int = 2', 'k: int = 5'))
  assert configs.of_workdir('work').model.moe.router.experts_per_token == 2
  assert type(configs.of_workdir('work').model.moe.router)().k == 2


def test_a_run_that_begins_with_another_takes_its_plugin_along(here):
  write(here)
  begin(here / 'work', load())
  assert configs.from_checkpoint('work').plugin == 'work/plugin/my.py'


def test_a_run_goes_on_with_the_plugin_that_it_began_with_alone(here):
  write(here)
  begin(here / 'work', load())
  assert load(here / 'work').plugin == 'my.py'
  write(here, TEXT.replace('jnp.ones', 'jnp.zeros'))
  with pytest.raises(errors.InputError, match=r"'my.py' is not what the"):
    load(here / 'work')
  (here / 'my.py').unlink()
  assert load(here / 'work').plugin == str(here / 'work/plugin/my.py')


def test_another_name_does_not_let_another_plugin_go_on(here):
  write(here)
  begin(here / 'work', load())
  flags = [('plugin', 'other.py'), ('model.moe.router', 'last')]
  shutil.copy('my.py', 'other.py')
  assert configs.load('tiny:tiny', flags, 'work').plugin == 'other.py'
  (here / 'other.py').write_text(TEXT.replace('jnp.ones', 'jnp.zeros'))
  with pytest.raises(errors.InputError, match=r"plugin='other.py' is not what"):
    configs.load('tiny:tiny', flags, 'work')
  (here / 'other.py').unlink()
  with pytest.raises(errors.InputError, match="no file 'other.py'"):
    configs.load('tiny:tiny', flags, 'work')


@pytest.mark.parametrize(
  ('line', 'name'),
  [
    ('import helper', 'helper'),
    ('from helper import X', 'helper'),
    ('from .helper import X', '.helper'),
    ('import jax.numpy, pack.inner', 'pack.inner'),
    ('from here import X', 'here'),
  ],
)
def test_a_plugin_that_needs_another_file_is_refused(here, line, name):
  """Also where Python would find the file, as beside `python -m`."""
  (here / 'lab' / 'pack').mkdir(parents=True)
  for file in ('lab/helper', 'lab/pack/__init__', 'lab/pack/inner', 'here'):
    (here / f'{file}.py').write_text('X = 1\n')
  # Not of the user: what is installed, and what Python has.
  for file in ('lab/flax', 'colorsys', 'moejax'):
    (here / f'{file}.py').write_text('')
  write(here / 'lab', f'import colorsys\nimport flax\n{line}\n{TEXT}')
  flags = [('plugin', 'lab/my.py'), ('model.moe.router', 'last')]
  with pytest.raises(errors.InputError) as error:
    configs.load('tiny:tiny', flags)
  assert str(error.value).startswith(f'lab/my.py:3: it imports {name}, a file')


def test_two_plugins_with_one_name_are_used_side_by_side(here):
  """As when a router is changed, trained anew, and compared with before."""
  write(here)
  first = load()
  write(here, TEXT.replace('k: int = 2', 'k: int = 5'))
  second = load()
  for run, k in ((first, 2), (second, 5)):
    tree = config_tree.to_dict(run)
    assert tree['model']['moe']['router'] == {'name': 'last', 'k': k}


BAD = {
  ("{'last': Last}", "{'top_k': Last}"): "my.py: ROUTERS['top_k']: moejax has",
  ("{'last': Last}", "{'La st': Last}"): "my.py: ROUTERS['La st']: a name has",
  ("{'last': Last}", '[Last]'): 'my.py: ROUTERS must be a dictionary',
  ("{'last': Last}", "{'last': 3}"): "my.py: ROUTERS['last'] must be a class",
  ('ROUTERS = ', 'ROUTER = '): 'my.py has none of the tables ROUTERS, SCORERS',
  ('(frozen=True)', '()'): 'my.py:11: TypeError: cannot inherit non-frozen',
  (
    '@dataclasses.dataclass(frozen=True)\n',
    '',
  ): "my.py: ROUTERS['last']: write @dataclasses.dataclass(frozen=True) above",
  (
    'class Last(contract.Router)',
    'class Last',
  ): "my.py: ROUTERS['last']: Last must inherit from moejax.Router",
  (
    "{'last': Last}",
    "{'last': __import__('moejax').ROUTERS['switch']}",
  ): "my.py: ROUTERS['last']: Switch must be defined in this file",
  ('import jax\n', 'import jaxx\n'): 'my.py:5: ModuleNotFoundError: No module',
}


@pytest.mark.parametrize(('old', 'new'), BAD)
def test_a_plugin_that_does_not_fit_is_one_line(here, old, new):
  assert old in TEXT
  write(here, TEXT.replace(old, new))
  with pytest.raises(errors.InputError) as error:
    load()
  assert str(error.value).startswith(BAD[old, new])
  assert '\n' not in str(error.value)


@pytest.mark.parametrize(
  ('path', 'line'),
  [
    ('other.py', "no file 'other.py': unknown plugin file 'other'"),
    ('my', "plugin='my' is not the path of a Python file"),
    ('sub/my.py', "no plugin file 'sub/my.py', nor any beside it"),
  ],
)
def test_a_plugin_that_is_not_there_is_one_line(here, path, line):
  write(here)
  with pytest.raises(errors.InputError) as error:
    configs.load('tiny:tiny', [('plugin', path)])
  assert str(error.value).startswith(line)


def test_an_error_of_a_router_has_its_place_in_the_plugin(here):
  write(here, TEXT.replace('inputs.logits_TE', 'inputs.logits'))
  router = load().model.moe.router
  with pytest.raises(errors.InputError) as error:
    router(None)
  assert str(error.value).startswith(
    "my.py:22: AttributeError: 'NoneType' object has no attribute 'logits'"
  )
