"""The benchmark of multiple-choice scoring, with sides that are made up."""

import json

import pytest

from benchmarks import choice
from moejax.core import exits

ANSWER = {'answers': [-2.0, -4.0], 'model': 'OLMoE'}


class Own:
  answers = (-2.0, -4.0004)

  def __init__(self, folder, pairs):
    assert len(pairs) == 2 * choice.OPTIONS
    assert json.loads((folder / 'pairs.json').read_text())

  def score(self):
    return 0.5

  def tokens(self):
    return 1000


class Peer:
  """Slower with every other batch size than 16, and slow at first."""

  ended = False

  def __init__(self, python, folder):
    self.warm = set()

  def read(self):
    return {}

  def score(self, size):
    warm = size in self.warm
    self.warm.add(size)
    seconds = (1.0 if size == 16 else 3.0) if warm else 9.0
    return {**ANSWER, 'seconds': seconds}

  def end(self):
    Peer.ended = True


def _call(capsys, *flags):
  code = exits.call(choice.main, flags)
  return code, *capsys.readouterr()


def test_the_ratio_is_to_the_peer_s_fastest_batch_size(capsys, monkeypatch):
  monkeypatch.setattr(choice, 'Own', Own)
  monkeypatch.setattr(choice, 'Peer', Peer)
  code, out, err = _call(capsys, '--questions=2', '--rounds=3')
  assert (code, err) == (exits.DONE, '')
  _, own, peer, ratio = out.splitlines()
  assert own.split()[:3] == ['moejax', '2000', 'tokens/s']
  assert peer.endswith('1000 tokens/s  batches of 16')
  assert ratio.startswith('moejax / hf: 2.00 of best, 2.00 of each')
  assert 'differ by 1e-04' in ratio
  assert Peer.ended


def test_options_of_a_question_share_its_context():
  pairs = choice.questions(3, shots=1)
  assert len(pairs) == 3 * choice.OPTIONS
  contexts = [context for context, _ in pairs]
  assert len(set(contexts)) == 3
  assert all(c.count('Question: ') == 2 for c in contexts)
  assert all(c.endswith('\nAnswer:') for c in contexts)
  assert all(option.startswith(' ') for _, option in pairs)


@pytest.mark.parametrize(
  ('python', 'message'),
  [
    ('no/such', '--peer_python=no/such cannot be run'),
    ('/bin/false', 'the peer failed (/bin/false): no error'),
  ],
)
def test_a_peer_that_does_not_run_is_one_line(python, message, capsys):
  code, _, err = _call(capsys, f'--peer_python={python}')
  assert code == exits.BAD_INPUT
  assert message in err
