"""Where the scripts run in tests."""

import pytest
from helpers import scripts


@pytest.fixture
def place(tmp_path):
  """A folder with an environment file, and a PATH of harmless programs."""
  return scripts.make_place(tmp_path)
