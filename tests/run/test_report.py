"""The report of a run, as it is kept and shown again."""

import threading
import types

import pytest
from etils import epath

from moejax.evals import EVALS
from moejax.run import report


def test_a_report_is_of_the_folder_that_it_lies_in(tmp_path):
  here, there = epath.Path(tmp_path / 'here'), epath.Path(tmp_path / 'there')
  here.mkdir()
  assert report.read(here) is None
  report.write({'workdir': str(here), 'steps': 3}, here)
  here.rename(there)
  assert report.read(here) is None
  assert report.read(there) == {'workdir': str(there), 'steps': 3}


class Scored:
  """A subject that notes when it is scored."""

  def __init__(self, devices):
    mesh = types.SimpleNamespace(size=devices)
    self.model = types.SimpleNamespace(mesh=mesh)
    self.begun = threading.Event()

  @property
  def scores(self):
    self.begun.set()
    return {}


@pytest.mark.parametrize('devices', [1, 2])
def test_samples_are_made_beside_the_scores_on_one_device(monkeypatch, devices):
  """On several, programs of two threads could wait for each other."""

  def samples(subject):
    # On one device it waits until the validation sets are being scored.
    return {'beside': subject.begun.wait(60 if devices == 1 else 0.2)}

  monkeypatch.setitem(EVALS, 'samples', samples)
  config = types.SimpleNamespace(samples=True, eval_batches=0)
  context = types.SimpleNamespace(
    run=types.SimpleNamespace(report=config),
    data=types.SimpleNamespace(vocab=None),
  )
  subject = Scored(devices)
  made = report._beside_the_scores(context, subject, screen=None)
  assert made == {'beside': devices == 1}
  assert subject.begun.is_set()
