"""Several domains at once: their weights, and their scores as one."""

import dataclasses
import math
from collections.abc import Iterable, Mapping

import numpy as np

from moejax.compress.statistics import SUMS, ExpertStatistics, normalised
from moejax.core import errors, table


def parsed(text: str, known: Iterable[str]) -> dict[str, float]:
  """The weights of domains as a user writes them.

  Example: 'code=0.5,scripture=0.5' -> {'code': 0.5, 'scripture': 0.5}. A name
  alone has weight 1. Only ratios matter, so weights need not sum to 1.

  Args:
    text: NAME=WEIGHT, comma separated; '' gives every known domain weight 1.
    known: names of the domains that there are statistics of.

  Raises:
    InputError: an unknown or repeated domain, a weight that is not a positive
      number.
  """
  known = list(known)
  if not text.strip():
    return dict.fromkeys(known, 1.0)
  weights: dict[str, float] = {}
  for item in text.split(','):
    name, equals, value = (piece.strip() for piece in item.partition('='))
    if name not in known:
      raise table.unknown('domain', name, known)
    if name in weights:
      raise errors.InputError(f'--domains={text} names {name!r} twice')
    try:
      weight = float(value) if equals else 1.0
    except ValueError:
      weight = math.nan
    if not 0 < weight < math.inf:
      raise errors.InputError(
        f'--domains={text}: the weight of {name!r} is {value!r}; give a number '
        'above 0, or leave the domain out'
      )
    weights[name] = weight
  return weights


def mixed(
  scores: Mapping[str, np.ndarray], weights: Mapping[str, float]
) -> np.ndarray:
  """One score_NE from those of several domains.

  The scores of each domain are normalised to sum 1 in each layer, then summed
  with the domains' weights, so that no domain counts for more because it has
  more tokens or larger outputs. EASY-EP (arXiv 2504.06792) has weights of 1.

  Args:
    scores: by domain, score_NE of at least 0.
    weights: by domain, at least one; domains without a weight are left out.

  Returns:
    float64 score_NE whose rows sum to 1.
  """
  total = sum(weights.values())
  shares = [
    weight / total * normalised(scores[name])
    for name, weight in weights.items()
  ]
  return np.sum(shares, axis=0)


def pooled(
  statistics: Mapping[str, ExpertStatistics], weights: Mapping[str, float]
) -> ExpertStatistics:
  """One statistics of several domains, each counted by its weight.

  Each domain's sums are divided by its tokens and multiplied by its share of
  the weights and by the tokens of all, so that each domain has the influence
  that its weight says, however long its text is. It is for what reads more than
  a score: frequencies and similarities of a merge. Counts are float64.

  Args:
    statistics: by domain, of the same model.
    weights: by domain, at least one; domains without a weight are left out.

  Raises:
    InputError: as `ExpertStatistics.merged`, or a domain without tokens.
  """
  total = sum(weights.values())
  tokens = sum(statistics[name].tokens for name in weights)
  result: ExpertStatistics | None = None
  for name, weight in weights.items():
    one = statistics[name]
    if not one.tokens:
      raise errors.InputError(
        f'the statistics of domain {name!r} have no tokens; give it some text'
      )
    factor = weight / total * tokens / one.tokens
    outputs = one.output_gram_NEE
    scaled = dataclasses.replace(
      one,
      output_gram_NEE=None if outputs is None else factor * outputs,
      **{sum_name: factor * getattr(one, sum_name) for sum_name in SUMS},
    )
    result = scaled if result is None else result.merged(scaled)
  if result is None:
    raise ValueError('no domain has a weight')
  return result
