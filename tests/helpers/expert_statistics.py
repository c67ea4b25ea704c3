"""Made-up `ExpertStatistics`, and those of a few tokens one by one."""

import dataclasses

import numpy as np

from moejax.compress.statistics import SUMS, ExpertStatistics


def of_events(events, num_experts, logits_TE):
  """Statistics of one layer from (s_t, {expert: (g, norm)}) of each token."""
  sums = {name: np.zeros((1, num_experts)) for name in SUMS[:-1]}
  for turned, experts in events:
    for expert, (gate, norm) in experts.items():
      for name, value in (
        ('count_NE', 1),
        ('gate_NE', gate),
        ('norm_NE', norm),
        ('gate_norm_NE', gate * norm),
        ('gate_token_NE', gate * turned),
        ('easy_ep_NE', gate * norm * turned),
      ):
        sums[name][0, expert] += value
  logits_TE = np.asarray(logits_TE, float)
  gram_NEE = (logits_TE.T @ logits_TE)[None]
  return ExpertStatistics(len(events), **sums, logit_gram_NEE=gram_NEE)


def random(layers=3, experts=4, seed=0, outputs=True, **fields):
  """Statistics drawn at random, every sum above 0."""
  rng = np.random.default_rng(seed)
  sums = {name: rng.uniform(1, 9, (layers, experts)) for name in SUMS[:-1]}
  sums['count_NE'] = rng.integers(1, 99, (layers, experts))
  grams = []
  for _ in range(2):
    x_NTE = rng.normal(size=(layers, 2 * experts, experts))
    grams.append(np.einsum('nti,ntj->nij', x_NTE, x_NTE))
  return ExpertStatistics(
    2 * experts,
    **sums,
    logit_gram_NEE=grams[0],
    output_gram_NEE=grams[1] if outputs else None,
    **fields,
  )


def permuted(statistics, order):
  """The same experts, numbered otherwise: new expert i was `order[i]`."""
  fields = {name: getattr(statistics, name)[:, order] for name in SUMS[:-1]}
  for name in ('logit_gram_NEE', 'output_gram_NEE'):
    gram_NEE = getattr(statistics, name)
    if gram_NEE is not None:
      fields[name] = gram_NEE[:, order][:, :, order]
  return dataclasses.replace(statistics, **fields)
