"""Gives every test eight CPU devices, before anything imports jax."""

import os
import pathlib
import sys

# Most of a small test's time is compiling. Without LLVM's optimisation that is
# five times shorter, and the results differ in rounding at most.
os.environ['JAX_PLATFORMS'] = 'cpu'
os.environ['XLA_FLAGS'] = (
  os.environ.get('XLA_FLAGS', '')
  + ' --xla_force_host_platform_device_count=8'
  + ' --xla_backend_optimization_level=0'
)

# So that tests can say `from helpers import tiny`, however pytest is started.
sys.path.insert(0, str(pathlib.Path(__file__).parent))
