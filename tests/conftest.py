"""Eight CPU devices for every test, and an end to compiled programs' growth.

With MOEJAX_TEST_PLATFORM=tpu, or cuda, the devices are those: for the tests
marked `accelerator`, and for no other.
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
# Most of a small test's time is compiling. Without LLVM's optimisation and with
# XLA's older, simpler code for fusions that is four times shorter; results
# differ in rounding at most.
flags = [
  '--xla_force_host_platform_device_count=8',
  '--xla_backend_optimization_level=0',
]
if importlib.metadata.version('jaxlib').startswith('0.10.'):
  # An unknown flag ends the process, so only where it is known to exist.
  flags.append('--xla_cpu_use_fusion_emitters=false')
if PLATFORM == 'cpu':
  os.environ['XLA_FLAGS'] = ' '.join([os.environ.get('XLA_FLAGS', ''), *flags])

# So that tests can say `from helpers import tiny`, however pytest is started.
sys.path.insert(0, str(pathlib.Path(__file__).parent))

# Tracing makes so many objects that Python looks for cycles among all of them
# again and again, a tenth of a test's time: here it looks less often.
gc.set_threshold(50_000, 20, 20)

# Pages of memory after which a process forgets its compiled programs: 2 GB.
MANY_PAGES = 2 * 2**30 // os.sysconf('SC_PAGE_SIZE')
STATUS = pathlib.Path('/proc/self/statm')


# The same examples in every run, and few: most of them are for the edges.
hypothesis.settings.register_profile(
  'moejax', derandomize=True, deadline=None, max_examples=30, database=None
)
hypothesis.settings.load_profile('moejax')


@pytest.fixture(autouse=True, scope='module')
def _programs_are_forgotten():
  """After a file of tests, if they have become many: they are never freed."""
  yield
  if STATUS.exists() and int(STATUS.read_text().split()[1]) > MANY_PAGES:
    sys.modules['jax'].clear_caches()
    gc.collect()


def pytest_collection_modifyitems(items):
  """Files with slow tests first, so that no worker is left with one alone."""
  slow = {item.path for item in items if item.get_closest_marker('slow')}
  items.sort(key=lambda item: item.path not in slow)
