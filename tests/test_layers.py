"""The rules of the layout, each with a planted violation that it finds."""

import ast
import functools
import os
import pathlib
import subprocess
import sys
import textwrap

import pytest

ROOT = pathlib.Path(__file__).parent.parent
FILES = sorted(
  path
  for name in ('moejax', 'benchmarks')
  for path in (ROOT / name).rglob('*.py')
)

# High to low: a package imports itself and what is in a lower line.
LAYERS = (
  {'main', '__main__'},
  {'cli', 'research', 'benchmarks'},
  {'sweep'},
  {'run'},
  {'page'},
  {'evals', 'analysis', 'compress', 'plan', 'doctor'},
  {'config'},
  {'train', 'convert'},
  {'model', 'data'},
  {'vision'},
  {'moe'},
  {'parallel'},
  {'shell'},
  {'core'},
)
HEIGHT = {name: -line for line, names in enumerate(LAYERS) for name in names}
# Lower, and out of bounds all the same: a model never sees a Batch.
NEVER = {('model', 'data'), ('data', 'moe')}

# Slow to import, or not there on every machine: imported where they are used.
HEAVY = {
  'PIL',
  'apache_beam',
  'datasets',
  'datasketch',
  'huggingface_hub',
  'matplotlib',
  'mlflow',
  'optuna',
  'pyarrow',
  'qwix',
  'scipy',
  'sentencepiece',
  'seqio',
  'tensorflow',
  'tensorflow_datasets',
  'tensorflow_text',
  'tokamax',
  'tokenizers',
  'torch',
  'transformers',
  'wandb',
}
# The other imports that may stand in a function, and why.
INSIDE = {
  'fcntl': 'is not there on Windows',
  'jinja2': 'only chat templates need it',
  'ml_collections': 'a model is built without it where it is missing',
  'tensorboardX': 'only the one process that writes needs it',
}

# JAX's private modules change without notice. This file says why it needs them.
PRIVATE_JAX = 'moejax/parallel/group.py'

MAX_FILE = 400
MAX_COMMAND = 100
MAX_FUNCTION = 80


def package_of(name):
  """'moejax/train/step.py' -> 'train', 'benchmarks/step.py' -> 'benchmarks'."""
  parts = pathlib.PurePath(name).parts
  return parts[parts[0] == 'moejax'].removesuffix('.py')


def modules(node):
  """The modules that an import statement names, 'moejax' with what is taken."""
  if isinstance(node, ast.Import):
    return [alias.name for alias in node.names]
  if node.level:
    return ['.' * node.level + (node.module or '')]
  if node.module == 'moejax':
    return [f'moejax.{alias.name}' for alias in node.names]
  return [node.module]


@functools.cache
def nodes(tree):
  """All nodes of a tree or function, walked through once for all rules."""
  return tuple(ast.walk(tree))


@functools.cache
def parsed(path):
  return ast.parse(path.read_text(encoding='utf-8'))


def imports(tree):
  return [
    (node, module)
    for node in nodes(tree)
    if isinstance(node, (ast.Import, ast.ImportFrom))
    for module in modules(node)
  ]


def for_type_checkers(tree):
  """What stands below `if TYPE_CHECKING:`, which no program reaches."""
  return [
    inner
    for node in tree.body
    if isinstance(node, ast.If) and ast.unparse(node.test) == 'TYPE_CHECKING'
    for inner in ast.walk(node)
  ]


def functions(tree):
  kinds = (ast.FunctionDef, ast.AsyncFunctionDef)
  return [node for node in nodes(tree) if isinstance(node, kinds)]


def upward_imports(name, tree):
  here = package_of(name)
  if here == '__init__':  # instant, and setup.cfg reads the version in it
    seen = {id(node) for node in for_type_checkers(tree)}
    return [
      module
      for node, module in imports(tree)
      if id(node) not in seen and module not in {'importlib', 'typing'}
    ]
  if here not in HEIGHT:
    return [f'package {here} is in no line of LAYERS']
  found = []
  for _, module in imports(tree):
    if module.startswith('.'):
      found.append(f'{module} is relative')
    parts = module.split('.')
    if parts[0] != 'moejax' or parts[1:] == ['__version__']:
      continue
    there = parts[1] if len(parts) > 1 else ''
    lower = there in HEIGHT and HEIGHT[there] < HEIGHT[here]
    if there != here and (not lower or (here, there) in NEVER):
      found.append(f'{here} imports {module}')
  return found


def inner_imports(tree):
  """Imports inside functions, with the module."""
  return [found for function in functions(tree) for found in imports(function)]


def heavy_at_the_top(name, tree):
  inside = {id(node) for node, _ in inner_imports(tree)}
  return [
    module
    for node, module in imports(tree)
    if id(node) not in inside and module.split('.')[0] in HEAVY
  ]


def hidden_imports(name, tree):
  return sorted({
    module
    for _, module in inner_imports(tree)
    if module.split('.')[0] not in HEAVY | INSIDE.keys()
  })


def private_jax(name, tree):
  return [
    module
    for _, module in imports(tree)
    if name != PRIVATE_JAX and f'{module}.'.startswith('jax._src.')
  ]


def prints(name, tree):
  return [
    f'line {node.lineno}'
    for node in nodes(tree)
    if isinstance(node, ast.Name)
    and node.id == 'print'
    and package_of(name) not in {'cli', 'benchmarks'}
  ]


def long_functions(name, tree):
  return [
    f'{node.name}: {node.end_lineno - node.lineno + 1} lines'
    for node in functions(tree)
    if node.end_lineno - node.lineno >= MAX_FUNCTION
  ]


def long_files(name, tree):
  last = max((getattr(node, 'end_lineno', 0) for node in tree.body), default=0)
  return [f'{last} lines'] if last > MAX_FILE else []


def long_commands(name, tree):
  """Of a file in cli/, which has flags, one call, and what is printed."""
  last = max((getattr(node, 'end_lineno', 0) for node in tree.body), default=0)
  long = package_of(name) == 'cli' and last > MAX_COMMAND
  return [f'{last} lines'] if long else []


def imports_of_commands(name, tree):
  """Nothing imports a command, not even another one."""
  return [
    module
    for _, module in imports(tree)
    if module.split('.')[:2] == ['moejax', 'cli']
  ]


LINES = lambda num: '\n'.join(f'  x{i} = {i}' for i in range(num))
LONG_FUNCTION = 'def f():\n' + LINES(MAX_FUNCTION)
LONG_COMMAND = '\n'.join(f'x{i} = {i}' for i in range(MAX_COMMAND + 1))
LONG_FILE = '\n'.join(f'x{i} = {i}' for i in range(MAX_FILE + 1))

# Each rule with sources that break it and sources that do not, in a place.
CASES = {
  upward_imports: (
    [
      ('moe/layer.py', 'import moejax.model.config'),
      ('moe/layer.py', 'from moejax import train'),
      ('moe/layer.py', 'from moejax.data.batch import Batch'),
      ('model/block.py', 'from moejax.data.batch import Batch'),
      ('data/cache.py', 'from moejax.moe import contract'),
      ('core/trees.py', 'def f():\n  from moejax.run import train'),
      ('run/train.py', 'from moejax.cli import count'),
      ('plan/plan.py', 'from moejax.run import train'),
      ('evals/score.py', 'from moejax.plan import count'),
      ('moe/layer.py', 'from . import contract'),
      ('moe/layer.py', 'from moejax.core2 import x'),
      ('moe/layer.py', 'import moejax'),
      ('new/layer.py', 'import jax'),
      ('__init__.py', 'import jax'),
      ('__init__.py', 'from moejax import config'),
      ('__init__.py', 'if True:\n  from moejax.config import Run'),
    ],
    [
      ('moe/layer.py', 'from moejax.moe import contract\nimport jax'),
      ('train/loss.py', 'from moejax.data.batch import Batch'),
      ('main.py', 'from moejax.run import train'),
      ('run/train.py', 'from moejax import __version__'),
      ('run/train.py', 'from moejax import core, train'),
      ('__init__.py', "import importlib\n__version__ = '1'"),
      ('__init__.py', 'if TYPE_CHECKING:\n  from moejax.config import Run'),
    ],
  ),
  heavy_at_the_top: (
    [
      ('data/tasks.py', 'import tensorflow as tf'),
      ('data/tasks.py', 'from seqio import x'),
      ('data/tasks.py', 'if True:\n  import torch.nn'),
      ('data/tasks.py', 'class A:\n  import pyarrow'),
    ],
    [
      ('data/tasks.py', 'def f():\n  import tensorflow'),
      ('data/tasks.py', 'class A:\n  def f(self):\n    from seqio import x'),
      ('data/tasks.py', 'import tensorstore'),
    ],
  ),
  hidden_imports: (
    [
      ('moe/layer.py', 'def f():\n  import json'),
      ('moe/layer.py', 'class A:\n  def f(self):\n    from moejax import core'),
    ],
    [
      ('moe/layer.py', 'import json'),
      ('moe/layer.py', 'def f():\n  import pyarrow.parquet'),
    ],
  ),
  private_jax: (
    [
      ('moe/layer.py', 'import jax._src.core'),
      ('moe/layer.py', 'def f():\n  from jax._src import core'),
      ('parallel/mesh.py', 'from jax._src.lib import _jax'),
    ],
    [
      ('parallel/group.py', 'from jax._src import distributed'),
      ('moe/layer.py', 'import jax'),
    ],
  ),
  prints: (
    [
      ('moe/layer.py', 'print(1)'),
      ('train/loop.py', 'show = print'),
    ],
    [
      ('cli/count.py', 'print(1)'),
      ('moe/layer.py', "jax.debug.print('x')"),
    ],
  ),
  long_functions: (
    [
      ('moe/layer.py', LONG_FUNCTION),
      ('moe/layer.py', 'class A:\n' + textwrap.indent(LONG_FUNCTION, '  ')),
    ],
    [('moe/layer.py', LONG_FUNCTION.rsplit('\n', 1)[0])],
  ),
  long_files: (
    [('moe/layer.py', LONG_FILE)],
    [('moe/layer.py', LONG_FILE.rsplit('\n', 1)[0]), ('moe/layer.py', '')],
  ),
  long_commands: (
    [('cli/count.py', LONG_COMMAND)],
    [
      ('cli/count.py', LONG_COMMAND.rsplit('\n', 1)[0]),
      ('cli/__init__.py', ''),
      ('main.py', LONG_COMMAND),
    ],
  ),
  imports_of_commands: (
    [
      ('cli/count.py', 'from moejax.cli import plan'),
      ('cli/count.py', 'from moejax.cli.plan import main'),
      ('main.py', 'import moejax.cli.count'),
      ('main.py', 'from moejax import cli'),
    ],
    [
      ('main.py', 'from moejax.run import train'),
      ('cli/count.py', 'from moejax.core import command'),
    ],
  ),
}

RULES = pytest.mark.parametrize('rule', CASES, ids=lambda rule: rule.__name__)


@RULES
def test_every_file_keeps_the_rule(rule):
  assert len(FILES) > 50
  found = {}
  for path in FILES:
    name = path.relative_to(ROOT).as_posix()
    bad = rule(name, parsed(path))
    if bad:
      found[name] = bad
  assert found == {}


@RULES
def test_the_rule_finds_what_breaks_it_and_nothing_else(rule):
  bad, good = CASES[rule]
  for name, source in bad:
    assert rule('moejax/' + name, ast.parse(source)), (name, source)
  for name, source in good:
    assert not rule('moejax/' + name, ast.parse(source)), (name, source)


def test_configs_import_what_a_config_needs_alone():
  allowed = {
    'moejax.config',
    'moejax.config.user_files',
    'moejax.core.config_tree',
    'moejax.core.table',
    'moejax.sweep',
  }
  for path in (ROOT / 'configs').rglob('*.py'):
    for node, module in imports(ast.parse(path.read_text(encoding='utf-8'))):
      names = {f'{module}.{alias.name}' for alias in node.names}
      assert module in allowed or names <= allowed, path


IMPORT_ALL = """
import importlib, os, pathlib, sys
import jax  # which sets two variables itself
before = dict(os.environ)
{planted}
for path in sorted(pathlib.Path({folder!r}).rglob('*.py')):
  name = '.'.join(path.with_suffix('').parts).removesuffix('.__init__')
  importlib.import_module(name)
  heavy = set({heavy}) & set(sys.modules)
  assert not heavy, f'{{name}} imports {{heavy}}'
assert dict(os.environ) == before, 'the environment was changed'
from jax._src import xla_bridge
assert not xla_bridge.backends_are_initialized(), 'devices were asked for'
"""


def import_all(folder, planted=''):
  script = IMPORT_ALL.format(
    folder=folder, planted=planted, heavy=sorted(HEAVY)
  )
  return subprocess.run(
    [sys.executable, '-c', script],
    capture_output=True,
    text=True,
    cwd=ROOT,
    env={**os.environ, 'PYTHONPATH': str(ROOT)},
    timeout=120,
    check=False,
  )


def test_importing_everything_does_nothing():
  """No TensorFlow, no devices, no change of the environment, no word."""
  done = import_all('moejax')
  assert (done.returncode, done.stdout, done.stderr) == (0, '', '')


@pytest.mark.parametrize(
  ('planted', 'message'),
  [
    ("sys.modules['tensorflow'] = sys", "moejax.core imports {'tensorflow'}"),
    ("os.environ['X_PLANTED'] = '1'", 'the environment was changed'),
    ('import jax; jax.devices()', 'devices were asked for'),
  ],
)
def test_the_import_check_finds_what_breaks_it(planted, message):
  done = import_all('moejax/core', planted)
  assert done.returncode == 1
  assert message in done.stderr
