"""Router saturation by token type, as the code of LibMoE computes it."""

import functools

import numpy as np

from moejax.analysis import expert_sets, rows
from moejax.analysis.measure import Rows
from moejax.analysis.trace import Trace
from moejax.analysis.traces import Traces

TYPES = 6000  # the most frequent token ids that are compared


def type_saturation(traces: Traces, types: int = TYPES) -> Rows:
  """By earlier checkpoint and layer, saturation of the experts of token types.

  A layer has a table of how often each vocabulary id chose each expert. The
  experts of an id are the k that it chose most, the lower number first of two
  that it chose as often; those that it never chose are left out. `topk` is the
  mean over ids of the share of these experts that the last checkpoint has too,
  and `top1` the share of ids with the same first expert. Only the `types` most
  frequent ids of the text count.

  An id has fewer ways to change than its occurrences have, so this saturation
  is the higher one. Source: the code of LibMoE, arXiv 2411.00918; 6,000 types
  as in arXiv 2505.10860, section 4. The definition in both texts is that of
  `saturation`.
  """
  last = traces.last
  type_T, num_types = _frequent(last, types)
  chosen = functools.partial(_favourites, type_T=type_T, num_types=num_types)
  final = [chosen(last, n) for n in range(len(last.layers))]
  result: Rows = {}
  for i in range(len(traces.each) - 1):
    trace = traces.each[i]
    step = {**rows.checkpoint(trace), 'types': num_types}
    layers = []
    for n, layer in enumerate(trace.layers):
      shares = _shares(chosen(trace, n), final[n])
      layers.append(shares)
      top1, topk = map(rows.number, shares)
      result[f'step {trace.step}, layer {layer}'] = {
        **step,
        'layer': int(layer),
        'top1': top1,
        'topk': topk,
      }
    defined = [x for x in layers if np.isfinite(x).all()]
    top1, topk = np.mean(defined, axis=0) if defined else (np.nan, np.nan)
    result[f'step {trace.step}, all layers'] = {
      **step,
      'layer': None,
      'top1': rows.number(top1),
      'topk': rows.number(topk),
    }
  return result


def _frequent(trace: Trace, types: int) -> tuple[np.ndarray, int]:
  """type_T, the number of each token's type among the most frequent, or -1."""
  ids, place_T, count = np.unique(
    trace.token_T, return_inverse=True, return_counts=True
  )
  kept = np.argsort(-count, kind='stable')[:types]
  number = np.full(len(ids), -1)
  number[kept] = np.arange(len(kept))
  return number[place_T], len(kept)


def _favourites(
  trace: Trace, n: int, type_T: np.ndarray, num_types: int
) -> np.ndarray:
  """expert_SK: the experts that each type chose most, -1 for none."""
  keep_T = type_T >= 0
  count_SE = expert_sets.counts(
    expert_sets.of_layer(trace, n)[:, keep_T],
    trace.num_experts,
    type_T[keep_T],
    num_types,
  )
  expert_SK = np.argsort(-count_SE, axis=1, kind='stable')[:, : trace.k]
  chosen_SK = np.take_along_axis(count_SE, expert_SK, axis=1) > 0
  return np.where(chosen_SK, expert_SK, -1)


def _shares(a_SK: np.ndarray, b_SK: np.ndarray) -> tuple[float, float]:
  """The shares of equal first experts, and of equal experts."""
  size_S = np.maximum((a_SK >= 0).sum(axis=1), (b_SK >= 0).sum(axis=1))
  keep_S = size_S > 0
  if not keep_S.any():
    return np.nan, np.nan
  equal_SKK = (a_SK[:, :, None] == b_SK[:, None]) & (a_SK >= 0)[:, :, None]
  share_S = equal_SKK.sum(axis=(1, 2))[keep_S] / size_S[keep_S]
  return float((a_SK[:, 0] == b_SK[:, 0])[keep_S].mean()), float(share_S.mean())
