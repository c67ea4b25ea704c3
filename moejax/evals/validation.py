"""How well a model predicts its validation sets, beside two baselines."""

import dataclasses
import math
from typing import Any

from moejax.evals import answers
from moejax.evals.perplexity import Score
from moejax.evals.subject import Subject

# Columns in bits per byte of the same text.
BITS = ('bits_per_byte', 'bits_low', 'bits_high', 'unigram', 'xz')


def perplexity(subject: Subject) -> dict[str, dict[str, Any]]:
  """Each validation set's loss, perplexity and bits per byte.

  `bits_low` and `bits_high` are the ends of the 95% confidence interval of the
  bits per byte, by a bootstrap over rows (`Score.loss_interval`). Beside them
  are two baselines in bits per byte: a unigram model with the token
  frequencies of the training text (`unigram`), and the bytes by which the
  validation text lengthens the training text compressed with `xz -9` (`xz`).
  Baselines are of whole validation sets, so they are None where only a part is
  scored.

  Conversations have three more values: the number of answers, the share of them
  that are exact (`evals/answers.py`), and the share of the most frequent answer
  of the whole set, which is what the best constant answer gets.
  """
  return {
    name: {
      'loss': score.loss,
      'perplexity': score.perplexity,
      'accuracy': score.accuracy,
      'tokens': score.tokens,
      **_bits(score, subject, name),
      **_answers(score, subject, name),
    }
    for name, score in subject.scores.items()
  }


def _answers(score: Score, subject: Subject, name: str) -> dict[str, Any]:
  """Scores of answers; nothing for text that is no conversation."""
  if score.exact is None:
    return {}
  reader = subject.data.validation[name]
  return {
    'answers': score.answers,
    'exact': score.exact,
    'most_frequent': answers.most_frequent(reader),
  }


def _bits(score: Score, subject: Subject, name: str) -> dict[str, Any]:
  """Bits per byte of the model and of the baselines; None without text.

  The bytes of a part of the rows are not known; the estimate takes as many for
  each token as the whole set has.
  """
  reader = subject.data.validation[name]
  bits = dict.fromkeys(BITS)
  if not reader.num_bytes:
    return bits
  num_bytes = reader.num_bytes * score.tokens / reader.num_tokens
  bits['bits_per_byte'] = score.bits_per_byte(num_bytes)
  if (ends := score.loss_interval()) is not None:
    for name_of_end, loss in zip(('bits_low', 'bits_high'), ends, strict=True):
      end = dataclasses.replace(score, loss=loss)
      bits[name_of_end] = end.bits_per_byte(num_bytes)
  baselines = None if subject.limit else subject.data.baselines(name)
  if baselines is None:
    return bits
  xz = baselines.xz_bits_per_byte
  return bits | {
    'unigram': baselines.unigram_bits_per_byte,
    'xz': None if math.isnan(xz) else xz,
  }
