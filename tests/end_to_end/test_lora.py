"""A model that is tuned by adapters, through the real commands."""

import pytest
from helpers import own_text

from moejax.cli import generate
from moejax.core import exits, trees
from moejax.run import base_weights, restore, trained

# Each compiles the step of a model with adapters.
pytestmark = pytest.mark.soak
ADAPTERS = ('--config.train.lora.rank=4', '--config.opt.peak_lr=0.001')


def flags(finished, workdir, *more):
  start = f'--config.start={finished.workdir}'
  return (*own_text.flags(finished.text, workdir), start, *more)


@pytest.fixture(scope='module')
def straight(finished, tmp_path_factory):
  """A run with adapters beside the weights of `finished`, never stopped."""
  workdir = tmp_path_factory.mktemp('lora') / 'run'
  ended = own_text.call(*flags(finished, workdir, *ADAPTERS))
  assert (ended.code, ended.err) == (exits.DONE, [])
  return workdir, ended


def losses(workdir):
  return [r['loss'] for r in own_text.records(workdir) if 'loss' in r]


def test_it_begins_with_the_very_model_and_trains_adapters_alone(
  finished, straight, tmp_path
):
  workdir, ended = straight
  (line,) = [x for x in ended.out if x.startswith('Adapters: ')]
  state = restore.state(str(workdir))
  adapters = {
    path: x
    for path, x in trees.leaves(state.weights).items()
    if '/router_state/' not in path
  }
  assert all(path.endswith(('/a', '/b')) for path in adapters)
  assert line.startswith(f'Adapters: {trees.count(adapters):,} parameters ')
  # A run that trains the weights has the same first loss, to the bit.
  whole = tmp_path / 'whole'
  own_text.call(*flags(finished, whole, '--config.train.steps=1'))
  assert losses(workdir)[0] == losses(whole)[0]
  # The base is that of the run that it began with.
  model = trained.open_trained(str(workdir)).model
  before, _ = restore.weights(model, str(finished.workdir), print)
  base = base_weights.read(
    base_weights.lora.of(model, base_weights.adapters_of(workdir)), workdir
  )
  for path, x in trees.leaves(before).items():
    assert (x == trees.leaves(base.weights)[path]).all(), path


def test_stopped_it_goes_on_bit_for_bit(
  finished, straight, tmp_path, monkeypatch
):
  """Also when the model that it began with has gone."""
  moved, workdir = tmp_path / 'moved', tmp_path / 'run'
  moved.symlink_to(finished.workdir)
  call = (*flags(finished, workdir, *ADAPTERS), f'--config.start={moved}')
  with monkeypatch.context() as patch:
    own_text.stop_after(patch, 3)
    assert own_text.call(*call).code == exits.INTERRUPTED
  moved.unlink()
  ended = own_text.call(*call)
  assert (ended.code, ended.err) == (exits.DONE, [])
  assert own_text.records(workdir) == own_text.records(straight[0])
  same = own_text.report(straight[0])
  assert own_text.report(workdir) == {**same, 'workdir': str(workdir)}
  ended = own_text.call(*call, '--config.train.lora.rank=2')
  assert ended.code == exits.BAD_INPUT
  assert 'train.lora.rank' in ended.err[-1]


def test_its_report_and_its_texts_are_of_the_sum(finished, straight, capsys):
  workdir, _ = straight
  ask = ['--prompt=the cat', '--temperature=0', '--max_new_tokens=8']
  texts = []
  for place in (workdir, finished.workdir):
    generate.main([f'--workdir={place}', *ask])
    texts.append(capsys.readouterr().out)
  assert all(text.startswith('the cat') for text in texts)
  after, before = (
    [r['eval/loss'] for r in own_text.records(place) if 'eval/loss' in r][-1]
    for place in (workdir, finished.workdir)
  )

  assert after < before
