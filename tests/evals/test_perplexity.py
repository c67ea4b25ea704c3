"""Scores: over tokens, not over batches; and against a slow reference."""

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import tiny

from moejax.core import values
from moejax.evals import perplexity
from moejax.train import cross_entropy, loss
from moejax.train.config import TrainConfig


def _step(weights, batch):
  """What a jitted step returns, for batches that are (losses, weights)."""
  loss_T, weight_T = batch
  return {
    'loss': values.Mean.of(np.array(loss_T), np.array(weight_T)),
    'accuracy': values.Mean.of(np.array(loss_T) < 2, np.array(weight_T)),
    'count_NE': values.Sum(jnp.array([[sum(weight_T), 1.0], [0.0, 2.0]])),
  }


def test_a_mean_over_tokens_not_over_batches():
  # Three tokens of loss 1 and one of loss 9, beside one of padding.
  batches = [([1.0, 1.0, 1.0], [1, 1, 1]), ([9.0, 5.0], [1, 0])]
  score = perplexity.evaluate(_step, None, batches)
  assert score.loss == 3.0  # of the batches' means it would be 5
  assert score.accuracy == 0.75  # and 0.5
  assert score.tokens == 4
  assert score.perplexity == pytest.approx(math.exp(3))
  # exp(1) three times and exp(9) have another mean.
  assert score.perplexity < 21
  # 4 tokens of 3 nats are 12 nats, 12 / 0.6931 bits, for 8 bytes.
  assert score.bits_per_byte(8) == pytest.approx(12 / 0.69314718 / 8)


def test_counts_of_experts_are_added():
  batches = [([1.0], [1]), ([1.0, 1.0], [1, 1]), ([1.0], [0])]
  score = perplexity.evaluate(_step, None, batches)
  np.testing.assert_array_equal(score.count_NE, [[3, 3], [0, 6]])


def test_a_loss_beyond_all_numbers_has_a_perplexity():
  score = perplexity.Score(loss=1e4, accuracy=0.0, tokens=1, count_NE=None)
  assert math.isfinite(score.perplexity)


def test_nothing_to_evaluate_on_is_an_error():
  with pytest.raises(ValueError, match='no batch'):
    perplexity.evaluate(_step, None, [])


@functools.partial(jax.jit, static_argnums=0)
def _logits(model, weights, batch):
  decoder = model.bind(weights)
  out = decoder(batch.token_BL, batch.segment_BL, batch.position_BL)
  return out.x_BLD @ decoder.head()


def _often_right(logits, batch):
  """A batch with targets that the model predicts: every other, all padding."""
  best_BL = logits.argmax(-1)
  is_set = (np.arange(best_BL.shape[1]) % 2 == 0) | (batch.weight_BL == 0)
  target_BL = np.where(is_set, best_BL, batch.target_BL)
  return dataclasses.replace(batch, target_BL=target_BL)


def _reference(logits, batch):
  """Loss and hits of every target, by numpy from the whole logits."""
  log_prob = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
  nll = -np.take_along_axis(log_prob, batch.target_BL[..., None], -1)[..., 0]
  real = batch.weight_BL > 0
  return nll[real], (logits.argmax(-1) == batch.target_BL)[real]


@pytest.mark.parametrize('num_experts', [4, 0])
def test_a_model_s_score_is_that_of_all_its_tokens(num_experts):
  config = tiny.model_config(moe={'num_experts': num_experts}, num_layers=2)
  model = tiny.model(config)
  weights = tiny.weights(model)
  # 22 tokens beside 5, in batches of two rows of twelve.
  batches = [
    tiny.batch([[12], [6, 4]], seed=1),
    tiny.batch([[5], []], seed=2),
  ]
  logits = [
    np.asarray(_logits(model, weights, batch), np.float64) for batch in batches
  ]
  batches = list(map(_often_right, logits, batches))
  score = perplexity.evaluate(perplexity.make_step(model), weights, batches)
  found = list(map(_reference, logits, batches))
  nll, hit = (np.concatenate(part) for part in zip(*found, strict=True))
  assert score.tokens == len(nll) == 27
  assert score.loss == pytest.approx(nll.mean(), rel=1e-5)
  assert score.accuracy == pytest.approx(hit.mean(), rel=1e-5)
  assert 0.4 < hit.mean() < 0.7
  means = [part.mean() for part, _ in found]
  assert abs(score.loss - np.mean(means)) > 1e-3
  if not num_experts:
    assert score.count_NE is None
    return
  # Every token goes to k experts of the one layer that has them; padding to
  # none.
  assert score.count_NE.shape == (1, 4)
  k = config.moe.router.experts_per_token
  assert score.count_NE.sum() == 27 * k


def test_evaluation_makes_as_many_logits_at_a_time_as_training(monkeypatch):
  """The one setting of train/cross_entropy.py counts, on every platform."""
  seen = []

  def record(*args, chunk_tokens, **kwargs):
    seen.append(chunk_tokens)
    return real(*args, chunk_tokens=chunk_tokens, **kwargs)

  real = cross_entropy.cross_entropy
  monkeypatch.setattr(cross_entropy, 'cross_entropy', record)
  monkeypatch.setattr(cross_entropy, 'CHUNK_TOKENS', {'cpu': 7})
  model = tiny.model(tiny.model_config(moe={'num_experts': 0}, num_layers=1))
  weights, batch = tiny.weights(model), tiny.batch([[12], [6, 4]], seed=1)
  jax.eval_shape(perplexity.make_step(model), weights, batch)

  def training(weights):
    return loss.objective(
      model,
      TrainConfig(),
      weights,
      batch,
      jnp.arange(len(batch.token_BL)),
      None,
      loss.GlobalBatch(jnp.sum(batch.weight_BL)),
    )

  jax.eval_shape(training, weights)
  assert seen == [7, 7]
