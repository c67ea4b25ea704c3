"""Fresh LLaVA checkpoints, against transformers itself.

  make test-hf

See test_live.py for the Python that transformers runs in.
"""

import os
import time

import pytest
from helpers import hf_process
from helpers import llava as helper

pytestmark = [pytest.mark.hf, pytest.mark.slow]

# Another one every day; what failed names it.
SEED = int(os.environ.get('MOEJAX_HF_SEED', time.time() // 86_400))
SCRIPT = hf_process.SCRIPT.with_name('make_hf_llava.py')


@pytest.fixture(scope='module')
def fresh(tmp_path_factory):
  if not hf_process.is_there():
    pytest.skip(f'{hf_process.PYTHON} has no torch and transformers')
  path = tmp_path_factory.mktemp('fresh')
  hf_process.theirs('make', path, f'--seed={SEED}', script=SCRIPT)
  return path


@pytest.mark.parametrize('name', helper.NAMES)
def test_logits_are_those_of_transformers(name, fresh):
  assert helper.far(fresh / name) < 1e-4, SEED
