"""The report of a run, as it is kept and shown again."""

import shlex
import threading
import types

import pytest
from etils import epath

from moejax.core import errors
from moejax.data import synthetic
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


def test_a_damaged_report_is_one_line(tmp_path):
  (tmp_path / 'report.json').write_text('{"steps": 3')
  with pytest.raises(errors.InputError) as caught:
    report.read(epath.Path(tmp_path))
  assert str(caught.value).startswith(
    f'{tmp_path}/report.json cannot be read (Expecting'
  )
  assert 'remove it, and the command that trained' in str(caught.value)


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


@pytest.mark.parametrize(
  ('masked', 'said'), [([True], 0), ([True, False], 1), ([False], 1)]
)
def test_xz_is_named_where_a_text_is_compressed(masked, said):
  """Conversations are not, nor made-up rows."""
  text = lambda masked: types.SimpleNamespace(has_text=True, masked=masked)
  tasks = [*map(text, masked), synthetic.SyntheticTask()]
  domains = {n: types.SimpleNamespace(task=x) for n, x in enumerate(tasks)}
  group = types.SimpleNamespace(main_first=lambda name, work: None)
  config = types.SimpleNamespace(samples=False, eval_batches=0)
  context = types.SimpleNamespace(
    run=types.SimpleNamespace(report=config),
    data=types.SimpleNamespace(vocab='some', domains=domains),
    processes=types.SimpleNamespace(group=group),
  )
  lines = []
  screen = types.SimpleNamespace(line=lines.append)
  report._beside_the_scores(context, Scored(1), screen)
  assert len(lines) == said


@pytest.mark.parametrize('installed', [True, False])
def test_what_a_report_recommends_is_a_command_as_a_shell_reads_it(
  installed, monkeypatch, tmp_path
):
  find = report.importlib.util.find_spec
  spec = lambda name: installed or None if name == 'tensorboard' else find(name)
  monkeypatch.setattr(report.importlib.util, 'find_spec', spec)
  lines, commands = [], []
  folder = str(tmp_path / "it's mine")
  scores = {'loss': 1.0, 'perplexity': 2.7, 'bits_per_byte': 1.0}
  made = {
    'workdir': folder,
    'steps': 3,
    'first_layer': 0,
    'domains': {'files': {**scores, 'unigram': None, 'xz': None}},
    'experts': {},
    'samples': [],
  }
  screen = types.SimpleNamespace(line=lines.append, command=commands.append)
  report.show(made, screen)
  words = [shlex.split(command) for command in commands]
  assert f'--workdir={folder}' in words[0]
  assert f'--workdir={folder}' in words[1]
  board = ['tensorboard', f'--logdir={folder}/tensorboard']
  install = [] if installed else ['pip', 'install', 'tensorboard', '&&']
  assert words[2] == install + board
  assert words[0][-1:] == ['--prompt=In the']
  commands.clear()
  made['domains']['files'] |= {'exact': 0.5, 'most_frequent': 0.25}
  report.show(made, screen)
  assert shlex.split(commands[0])[-2:] == ['--chat', '--prompt=Hello']
