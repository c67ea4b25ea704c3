"""Several samples of each prompt: means of values, and pass@k."""

import dataclasses

import pytest

from moejax.core.errors import InputError
from moejax.evals import stopped, suite
from moejax.evals.benchmark import Prompt
from moejax.evals.draws import GREEDY, Draws
from moejax.evals.sampling import Sampling


class Drawer:
  """Writes the seed after each prompt, and keeps how it was asked."""

  def __init__(self):
    self.asked = []

  def generate(self, prompts, sampling=None, seed=0):
    self.asked.append((sampling, seed))
    return [f'{prompt.text}{seed}' for prompt in prompts]


PROGRAM = Prompt('x = ', program=lambda text: text)
JUDGED = Prompt('', judge=lambda text: {'exact_match': float(text == '4')})


def test_each_sample_has_a_seed_of_its_own_and_pass_at_k_is_estimated():
  engine = Drawer()
  draws = Draws(samples=20, temperature=0.8, seed=3)
  run = lambda programs: [program in ('x = 3', 'x = 7') for program in programs]
  values = suite.answer([PROGRAM, JUDGED], engine, run, draws)
  assert engine.asked == [(Sampling(0.8), seed) for seed in range(3, 23)]
  # 2 of 20 pass; ten of 20 contain neither with probability C(18,10)/C(20,10).
  assert values[0] == {
    'pass@1': pytest.approx(0.1),
    'pass@10': pytest.approx(1 - 10 * 9 / (20 * 19)),
  }
  assert values[1] == {'exact_match': 1 / 20}


def test_batches_of_all_samples_have_seeds_of_their_own(monkeypatch):
  seeds = []

  def batch(model, weights, vocab, requests, settings, seed):
    seeds.append(seed)
    return [''] * len(requests)

  monkeypatch.setattr(stopped, '_batch', batch)
  requests = [stopped.Request((1,), (), 1)] * 100
  for seed in range(70):
    settings = stopped.Settings(Sampling(1.0), (), seed=seed, rows=32)
    stopped.generate(None, None, None, requests, settings)
  assert len(seeds) == len({*seeds}) == 70 * 4
  assert seeds[:8:4] == [0, 1]


def test_without_draws_text_is_greedy():
  engine = Drawer()
  assert suite.answer([JUDGED], engine) == [{'exact_match': 0.0}]
  assert engine.asked == [(None, 0)]


@pytest.mark.parametrize(
  ('draws', 'message'),
  [
    ({'samples': 0}, 'samples=0'),
    ({'temperature': -1.0}, 'temperature=-1.0'),
    ({'samples': 2}, 'equal texts'),
  ],
)
def test_draws_out_of_bounds_are_one_line(draws, message):
  with pytest.raises(InputError, match=message):
    dataclasses.replace(GREEDY, **draws)
