"""Gives every test eight fake CPU devices, and frees compiled programs.

MOEJAX_TEST_PLATFORM=tpu (or cuda) takes the machine's accelerators instead; it
is for the tests marked `accelerator` alone.
"""

import gc
import importlib.metadata
import os
import pathlib
import sys

import hypothesis
import pytest

PLATFORM = os.environ.get('MOEJAX_TEST_PLATFORM', 'cpu')
os.environ['JAX_PLATFORMS'] = PLATFORM
# Most of a small test's time is compilation. It is four times shorter without
# LLVM's optimisation and with XLA's older, simpler code for fusions; results
# differ in rounding at most.
flags = [
  '--xla_force_host_platform_device_count=8',
  '--xla_backend_optimization_level=0',
]
if importlib.metadata.version('jaxlib').startswith('0.10.'):
  # XLA ends the process at an unknown flag, so this one is set only for the
  # version that is known to have it.
  flags.append('--xla_cpu_use_fusion_emitters=false')
if PLATFORM == 'cpu':
  os.environ['XLA_FLAGS'] = ' '.join([os.environ.get('XLA_FLAGS', ''), *flags])

# Tests can `from helpers import tiny` from whatever folder pytest is started.
sys.path.insert(0, str(pathlib.Path(__file__).parent))

# Tracing makes so many objects that garbage collection takes a tenth of a
# test's time; these thresholds make it run less often.
gc.set_threshold(50_000, 20, 20)

# Waiting for the disk takes longer than what many tests do, and shows after a
# power failure alone. What a killed process has written is there without it.
os.fsync = lambda descriptor: None

# A process that uses more pages of memory (2 GB) frees its compiled programs,
# and again whenever it has grown by another 1 GB. Memory rarely shrinks when
# programs are freed, so a fixed limit, once passed, would free them after every
# later file: a second each, and all of them to be compiled again.
GIGABYTE = 2**30 // os.sysconf('SC_PAGE_SIZE')
free_above = [2 * GIGABYTE]
STATUS = pathlib.Path('/proc/self/statm')


def _pages():
  """The pages of memory that this process uses; 0 where Linux does not say."""
  return int(STATUS.read_text().split()[1]) if STATUS.exists() else 0


# The same few examples in every run; Hypothesis tries the edges first.
hypothesis.settings.register_profile(
  'moejax', derandomize=True, deadline=None, max_examples=30, database=None
)
hypothesis.settings.load_profile('moejax')


@pytest.fixture(autouse=True, scope='module')
def _programs_are_forgotten():
  """After a file of tests, frees JAX's compiled programs if they are many.

  JAX itself never frees them.
  """
  yield
  if _pages() > free_above[0]:
    sys.modules['jax'].clear_caches()
    gc.collect()
    free_above[0] = max(free_above[0], _pages() + GIGABYTE)


@pytest.hookimpl(trylast=True)  # of the tests that are to run
def pytest_generate_tests(metafunc):
  """Refuses parameters in a set.

  A set of names has another order in each process, and two workers must collect
  the same tests in the same order.
  """
  for mark in metafunc.definition.iter_markers('parametrize'):
    values = mark.args[1] if len(mark.args) > 1 else mark.kwargs['argvalues']
    if isinstance(values, set | frozenset):
      raise ValueError(f'{metafunc.definition.nodeid}: sort its parameters')


def pytest_collection_modifyitems(items):
  """Files with slow tests first, so that no worker is left with one alone.

  Of the files that share the run `finished`, the first is the very first and
  trains it; the others come after all other slow ones, so that no worker waits
  for the run.
  """
  slow = {item.path for item in items if item.get_closest_marker('slow')}
  shares = lambda item: 'finished' in getattr(item, 'fixturenames', ())
  sharing = [item.path for item in items if shares(item)]

  def turn(item):
    if item.path in sharing:
      return 0 if item.path == sharing[0] else 2
    return 1 if item.path in slow else 3

  items.sort(key=turn)
