"""The benchmark of writing, with sides that are made up."""

import json

import pytest

from benchmarks import decode, timing
from moejax.core import exits


class Own:
  """Writes the same ids in 0.5 s, whatever the batch."""

  def __init__(self, folder, prompts, new):
    task = json.loads((folder / 'task.json').read_text())
    assert task == {'prompts': prompts, 'new': new}
    assert len(prompts) == 4
    assert {len(prompt) for prompt in prompts} == {7}
    self.new = new

  def write(self, size):
    return [[5] * self.new] * size, 0.5


class Peer:
  """Takes 1 s, at first 9 s; of four prompts it continues one otherwise."""

  ended = False

  def __init__(self, python, folder):
    self.asked = []

  def read(self):
    return {}

  def write(self, size):
    self.asked.append(size)
    warm = self.asked.count(size) > timing.WARM_UP
    answers = [[5] * 10] * size
    if size > 1:
      answers[0] = [6] * 10
    seconds = 1.0 if warm else 9.0
    return {'seconds': seconds, 'answers': answers, 'model': 'OLMoE'}

  def end(self):
    Peer.ended = True


FLAGS = ('--batch_sizes=1,4', '--prompt=7', '--new=10', '--rounds=2')


def test_a_line_for_each_batch_size(capsys, monkeypatch):
  monkeypatch.setattr(decode, 'Own', Own)
  monkeypatch.setattr(decode, 'Peer', Peer)
  assert exits.call(decode.main, FLAGS) == exits.DONE
  out, err = capsys.readouterr()
  head, one, four = out.splitlines()
  assert err == ''
  assert head.startswith('OLMoE; float32, prompts of 7 tokens, 10 new ones')
  # 10 tokens in 0.5 s, and in 1 s.
  assert one.split()[:5] == ['batch', '1:', 'moejax', '20', 'tokens/s,']
  assert 'transformers      10;' in one
  assert one.endswith(
    '2.00 of best, 2.00 of each; 100% of prompts are continued alike'
  )
  assert four.split()[3] == '80'
  assert four.endswith(' 75% of prompts are continued alike')
  assert Peer.ended


@pytest.mark.parametrize('text', ['0', '1,x', '2000'])
def test_batch_sizes_that_are_none_are_one_line(text, capsys):
  assert exits.call(decode.main, [f'--batch_sizes={text}']) == exits.BAD_INPUT
  (line,) = capsys.readouterr().err.strip().splitlines()[-1:]
  assert '--batch_sizes' in line


def test_a_peer_that_fails_is_one_line(tmp_path, capsys):
  """It says what it printed last, and what it needs."""
  python = tmp_path / 'python'
  python.write_text('#!/bin/sh\necho No module named torch >&2\nexit 1\n')
  python.chmod(0o755)
  code = exits.call(decode.main, [*FLAGS, f'--peer_python={python}'])
  assert code == exits.BAD_INPUT
  (line,) = capsys.readouterr().err.strip().splitlines()
  assert 'No module named torch; it needs a Python with transformers' in line
