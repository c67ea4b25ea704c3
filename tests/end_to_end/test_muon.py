"""A run that trains matrices with Muon."""

import pytest
from helpers import own_text

from moejax.core import exits


@pytest.mark.soak
def test_a_stopped_run_goes_on_bit_for_bit(finished, tmp_path, monkeypatch):
  flags = lambda name: (
    *own_text.flags(finished.text, tmp_path / name),
    '--config.opt.matrices.name=muon',
  )
  ended = own_text.call(*flags('straight'))
  assert (ended.code, ended.err) == (exits.DONE, [])
  with monkeypatch.context() as patch:
    own_text.stop_after(patch, 3)
    assert own_text.call(*flags('stopped')).code == exits.INTERRUPTED
  assert own_text.call(*flags('stopped')).code == exits.DONE
  rows = own_text.records(tmp_path / 'stopped')
  assert rows == own_text.records(tmp_path / 'straight')
  assert rows != own_text.records(finished.workdir)
