"""Utilisation: how evenly the experts of a layer share the assignments."""

import numpy as np

from moejax.analysis import expert_sets, rows
from moejax.analysis.measure import Rows
from moejax.analysis.traces import Traces


def utilisation(traces: Traces) -> Rows:
  """By checkpoint and layer, from r_e, the number of tokens with expert e.

    jain      (sum r)^2 / (E sum r^2): Jain's index, 1 if all are equal, 1/E if
              one expert has everything; arXiv 2505.10860, section 4.
    entropy   -sum p ln p / ln E with p = r / sum r; 1 if all are equal.
    dead      number of experts that no token chose.
    max, min  the largest and the smallest r over the mean.
    dropped   share of the assignments that had no room.
    load      r over the mean, of each expert; None for one that its layer does
              not have, which counts nowhere (`Trace.has`).

  Assignments that were dropped count in r: it is the router's choice. All are
  None in a layer without an assignment, except `dead`; `entropy` is None with
  one expert.
  """
  result: Rows = {}
  for i in range(len(traces.each)):
    trace = traces.each[i]
    for n, layer in enumerate(trace.layers):
      count_E = expert_sets.counts(
        expert_sets.of_layer(trace, n), trace.num_experts
      )[0]
      has_E = trace.has(n)
      has_TK = trace.expert_TNK[:, n] >= 0
      dropped = (trace.dropped_TNK[:, n] & has_TK).sum()
      result[f'step {trace.step}, layer {layer}'] = {
        **rows.checkpoint(trace),
        'layer': int(layer),
        **_evenness(count_E[has_E]),
        'dropped': rows.number(rows.ratio(dropped, has_TK.sum())),
        'load': rows.numbers(
          np.where(has_E, rows.ratio(count_E, count_E[has_E].mean()), np.nan)
        ),
      }
  return result


def entropy(count_E: np.ndarray) -> float:
  """-sum p ln p / ln E of counts; NaN without counts, or with one expert."""
  p_E = rows.ratio(count_E, count_E.sum())
  if np.isnan(p_E).any() or len(p_E) < 2:
    return np.nan
  return float(
    -(p_E * np.log(np.where(p_E > 0, p_E, 1))).sum() / np.log(len(p_E))
  )


def _evenness(count_E: np.ndarray) -> dict[str, float | int | None]:
  """The columns that depend on the counts alone."""
  count_E = count_E.astype(np.float64)
  total, mean = count_E.sum(), count_E.mean()
  jain = rows.ratio(total**2, len(count_E) * (count_E**2).sum())
  return {
    'jain': rows.number(jain),
    'entropy': rows.number(entropy(count_E)),
    'dead': int((count_E == 0).sum()),
    'max': rows.number(rows.ratio(count_E.max(), mean)),
    'min': rows.number(rows.ratio(count_E.min(), mean)),
  }
