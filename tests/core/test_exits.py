"""core/exits.py: errors that are no bugs are one line and an exit code."""

import pathlib
import re

import jax
import jax.numpy as jnp
import pytest

from moejax.core import exits

ROOT = pathlib.Path(__file__).parents[2]
TOO_MANY = 2**46  # numbers, more than any machine holds


def test_a_program_that_does_not_fit_the_memory_is_one_line(capsys):
  def run(argv):
    del argv
    jax.block_until_ready(jax.jit(lambda: 2.0 * jnp.ones(TOO_MANY))())

  assert exits.call(run, []) == exits.DOES_NOT_FIT
  (line,) = capsys.readouterr().err.splitlines()
  assert line.startswith('does not fit: Out of memory allocating')
  assert str(4 * TOO_MANY) in line
  assert 'train.micro_batches' in line


def test_another_error_of_jax_is_a_bug():
  def run(argv):
    del argv
    raise jax.errors.JaxRuntimeError('INTERNAL: RESOURCE_EXHAUSTED is not it')

  with pytest.raises(jax.errors.JaxRuntimeError):
    exits.call(run, [])


def test_an_object_store_without_its_package_is_one_line(capsys):
  """As fsspec says it of gs://, where neither gcsfs nor TensorFlow is."""

  def run(_):
    raise ImportError('Please install gcsfs to access Google Storage')

  assert exits.call(run, []) == exits.BAD_INPUT
  assert capsys.readouterr().err == (
    'error: Please install gcsfs to access Google Storage: pip install gcsfs\n'
  )


def test_another_missing_module_is_a_bug():
  def run(_):
    raise ImportError("No module named 'moejax.models'")

  with pytest.raises(ImportError):
    exits.call(run, [])


# Commands that leave work from which the same command goes on.
GO_ON = {
  'analyse', 'cache', 'compress', 'convert', 'evaluate', 'intervene', 'stages',
  'sweep', 'trace',
}  # fmt: skip


def test_only_a_command_that_goes_on_says_that_something_is_kept():
  kept, others = set(), set()
  for place in ('moejax/cli', 'benchmarks'):
    for path in (ROOT / place).glob('*.py'):
      for call in re.findall(r'\n  exits\.main\((.*)\)\n', path.read_text()):
        (others if 'keeps=False' in call else kept).add(path.stem)
  assert kept == GO_ON | {'accelerator'}
  assert len(others) > 10


@pytest.mark.parametrize(
  ('keeps', 'line'),
  [
    (True, 'what was finished is kept; run the same command to go on'),
    (False, 'nothing is kept'),
  ],
)
def test_ctrl_c_says_whether_something_is_kept(keeps, line, capsys):
  def run(argv):
    raise KeyboardInterrupt

  assert exits.call(run, [], keeps) == exits.INTERRUPTED
  assert capsys.readouterr().err == f'interrupted: {line}\n'
