"""All checkpoints of a workdir: their list, and those that a user names."""

import jax.numpy as jnp
import numpy as np
import pytest

from moejax.core import errors
from moejax.run import restore
from moejax.train.checkpoint import Checkpointer


def save(folder, values, **options):
  """Checkpoints whose weights are their step plus 0.5 if they are kept."""
  add = 0.5 * (folder.name == 'kept')
  with Checkpointer(folder, **options) as checkpointer:
    for step, loss in values.items():
      state = {'weights': {'w': jnp.full(3, step + add)}}
      checkpointer.save(step, state, {} if loss is None else {'metric': loss})


@pytest.fixture
def workdir(tmp_path):
  """States of 20, 30 and 40, of which 20 is the best; kept 0, 10 and 40."""
  save(tmp_path / 'checkpoints', {20: 2.0, 30: 3.0, 40: 2.5})
  save(tmp_path / 'kept', dict.fromkeys((0, 10, 40)), keep=None)
  return tmp_path


def value(chosen):
  like = {'weights': {'w': jnp.zeros(3)}}
  state, _ = chosen.folder.restore(chosen.step, like, partial=True)
  return float(np.asarray(state['weights']['w'])[0])


def test_every_step_is_listed_once_with_what_it_is(workdir):
  with restore.checkpoints(workdir) as saved:
    assert saved.steps() == {
      0: ('kept',),
      10: ('kept',),
      20: ('best',),
      30: (),
      40: ('newest', 'kept'),
    }


@pytest.mark.parametrize(
  ('which', 'step', 'want'),
  [
    ('newest', 40, 40.0),
    ('best', 20, 20.0),
    ('30', 30, 30.0),
    ('0', 0, 0.5),
    ('0010', 10, 10.5),
    ('40', 40, 40.0),  # of the two, the whole state
  ],
)
def test_any_checkpoint_is_found(workdir, which, step, want):
  with restore.checkpoints(workdir) as saved:
    chosen = saved.find(which)
    assert (chosen.step, value(chosen)) == (step, want)


@pytest.mark.parametrize(
  ('which', 'want'),
  [
    ('all', [0, 10, 20, 30, 40]),
    ('last', [40]),
    ('10', [10]),
    ('40, 0,10,0', [0, 10, 40]),
  ],
)
def test_several_are_chosen(workdir, which, want):
  with restore.checkpoints(workdir) as saved:
    assert saved.choose(which) == want


@pytest.mark.parametrize(
  ('ask', 'line'),
  [
    (lambda s: s.find('7'), 'no checkpoint 7 in .*: 0, 10, 20, 30, 40'),
    (lambda s: s.find('last', 'start_step'), "start_step='last' is newest,"),
    (lambda s: s.choose('0,7'), "0,7: '7' is not the step .*: 0, 10, 20, 30"),
    (lambda s: s.choose('newest'), "'newest' is not the step of a checkpoint"),
    (lambda s: s.choose(''), "'' is not the step of a checkpoint"),
  ],
)
def test_one_that_is_not_there_is_said_with_those_that_are(workdir, ask, line):
  with (
    restore.checkpoints(workdir) as saved,
    pytest.raises(errors.InputError, match=line),
  ):
    ask(saved)


def test_without_any_it_says_to_train_first(tmp_path):
  with restore.checkpoints(tmp_path) as saved:
    assert saved.steps() == {}
    for ask in (saved.find, lambda: saved.choose('all')):
      with pytest.raises(errors.InputError, match='no checkpoint in .* yet'):
        ask()


def test_without_a_validation_loss_none_is_the_best(tmp_path):
  save(tmp_path / 'checkpoints', {10: None})
  with restore.checkpoints(tmp_path) as saved:
    line = '--step=best: no checkpoint has .* the steps in .* are: 10'
    with pytest.raises(errors.InputError, match=line):
      saved.find('best')


def test_a_damaged_one_is_said(workdir):
  (workdir / 'kept' / '00000010' / 'meta.json').write_text('{"')
  with (
    restore.checkpoints(workdir) as saved,
    pytest.raises(errors.InputError, match='kept/00000010 is damaged'),
  ):
    saved.find('10')
