"""Loss spikes: the rule alone, against a slow one in plain Python."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import tiny

from moejax.core import config_tree, errors
from moejax.train import optimizer, state_files
from moejax.train import state as states
from moejax.train.config import TrainConfig
from moejax.train.spikes import NEVER, Deviations

RULE = Deviations(k=3.0, decay=0.9, warmup=4, in_a_row=2)


def run(rule, losses, seen=None):
  """Which losses are skipped, and what is seen at the end."""
  judge = jax.jit(rule.judge)
  seen = rule.init() if seen is None else seen
  skipped = []
  for loss in losses:
    loss = jnp.float32(loss)
    skip, seen = judge(seen, loss, jnp.isfinite(loss))
    skipped.append(bool(skip))
  return skipped, seen


def slowly(rule, losses):
  """The same in plain Python, from the docstring."""
  mean = variance = 0.0
  count = row = 0
  skipped = []
  for loss in losses:
    finite = math.isfinite(loss)
    high = finite and loss > mean + rule.k * math.sqrt(variance)
    skip = high and count >= rule.warmup and row < rule.in_a_row
    skipped.append(skip)
    if skip:
      row += 1
    elif finite:
      weight = max(1 - rule.decay, 1 / (1 + count))
      off = loss - mean
      variance = (1 - weight) * (variance + weight * off**2)
      mean += weight * off
      count, row = count + 1, 0
  return skipped, {'mean': mean, 'variance': variance, 'count': count}


def test_the_rule_is_the_slow_one():
  rng = np.random.default_rng(0)
  losses = 3 + 0.1 * rng.standard_normal(60)
  losses[[2, 20, 21, 40]] = 9, 9, math.nan, math.inf
  losses[50:54] = 5  # a new level, which is taken in the end
  skipped, seen = run(RULE, losses)
  want, at_end = slowly(RULE, losses)
  assert skipped == want
  assert [i for i, skip in enumerate(skipped) if skip][:2] == [20, 50]
  assert int(seen['skipped']) == sum(want)
  for name, value in at_end.items():
    assert float(seen[name]) == pytest.approx(value, rel=1e-4)


def test_the_mean_and_deviation_at_first_are_those_of_all():
  """Until 1 / (1 + steps) falls below 1 - decay."""
  losses = [4.0, 1.0, 3.0, 2.0, 2.5]
  _, seen = run(RULE, losses)
  assert float(seen['mean']) == pytest.approx(np.mean(losses))
  assert float(seen['variance']) == pytest.approx(np.var(losses), rel=1e-5)


def test_nothing_is_skipped_before_the_warmup():
  assert run(RULE, [1, 1, 1, 9, 1])[0] == [False] * 5
  assert run(RULE, [1, 1, 1, 1, 9])[0] == [False] * 4 + [True]


def test_a_level_that_stays_is_taken():
  skipped, _ = run(RULE, [1, 1.1, 1, 1.1, 5, 5, 5])
  assert skipped == [False] * 4 + [True, True, False]


def test_gone_on_from_the_middle_it_is_the_same_to_the_bit():
  rng = np.random.default_rng(1)
  losses = np.float32(3 + rng.standard_normal(40) ** 3)
  whole, at_end = run(RULE, losses)
  first, seen = run(RULE, losses[:17])
  seen = jax.tree.map(lambda x: jnp.asarray(np.asarray(x)), seen)
  second, after = run(RULE, losses[17:], seen)
  assert first + second == whole
  for name in at_end:
    assert after[name].tobytes() == at_end[name].tobytes()


def test_without_it_nothing_is_seen():
  assert jax.tree.leaves(NEVER.init()) == []
  assert NEVER.judge((), jnp.float32(1), jnp.bool_(True)) == (None, ())


def test_it_is_a_choice_of_the_config():
  tree = {'skip_spikes': {'name': 'deviations', 'k': 4.0}}
  found = config_tree.from_config_dict(TrainConfig, tree)
  assert found.skip_spikes == Deviations(k=4.0)
  assert TrainConfig().skip_spikes == NEVER
  with pytest.raises(errors.InputError, match='did you mean .deviations'):
    config_tree.from_config_dict(
      TrainConfig, {'skip_spikes': {'name': 'deviation'}}
    )


@pytest.mark.parametrize(('rule', 'num'), [(NEVER, 0), (Deviations(), 5)])
def test_off_it_is_in_no_checkpoint(rule, num):
  """Five numbers with a rule, and none without."""
  model = tiny.model()
  transform = optimizer.make(optimizer.OptimizerConfig(), 10, model.decays)
  abstract = states.abstract(model, transform, rule)
  names = [n for n in state_files.describe(abstract) if 'spikes' in n]
  assert len(names) == num
  assert len(jax.tree.leaves(rule.metrics(rule.init()))) == min(num, 3)
