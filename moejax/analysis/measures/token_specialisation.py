"""Token specialisation: how far a vocabulary id keeps to one expert."""

import numpy as np

from moejax.analysis import expert_sets, rows
from moejax.analysis.measure import Rows
from moejax.analysis.traces import Traces

FLOOR = 10  # occurrences below which an id does not count


def token_specialisation(traces: Traces, floor: int = FLOOR) -> Rows:
  """By layer of the last checkpoint, the mean over ids x of max_E N_x,E / N_x.

  N_x is the number of occurrences of vocabulary id x and N_x,E that of those
  whose first expert (k = 1) is E: 1 if every id keeps to one expert. `input` is
  of the token that the layer routes, `next` of the token behind it in its
  document, which the model should predict. `by_expert` is the mean of `input`
  over the ids that chose this expert most, and None for an expert that no id
  chose most; `types` is the number of ids that count.

  Source: the vocabulary specialisation of OLMoE, arXiv 2409.02060, section 5.4.
  Its code counts ids that occur once, whose share is always 1, in the mean:
  `floor=1`.
  """
  trace = traces.last
  # The next token of the same document stands behind its token.
  follows_T = np.append(
    (trace.document_T[1:] == trace.document_T[:-1])
    & (trace.position_T[1:] == trace.position_T[:-1] + 1),
    False,
  )[: len(trace.token_T)]
  behind_T = np.roll(trace.token_T, -1)
  inputs = expert_sets.Types.of(trace.token_T, floor)
  nexts = expert_sets.Types.of(behind_T[follows_T], floor)
  num_experts = trace.num_experts
  result: Rows = {}
  for n, layer in enumerate(trace.layers):
    first_1T = np.ascontiguousarray(trace.expert_TNK[:, n, :1].T)
    share_S, best_S = _favourites(first_1T, inputs, num_experts, floor)
    next_S, _ = _favourites(first_1T[:, follows_T], nexts, num_experts, floor)
    count_E = np.bincount(best_S, minlength=num_experts)
    total_E = np.bincount(best_S, weights=share_S, minlength=num_experts)
    result[f'layer {layer}'] = {
      'layer': int(layer),
      'types': len(share_S),
      'input': rows.number(rows.mean(share_S)),
      'next': rows.number(rows.mean(next_S)),
      'by_expert': rows.numbers(rows.ratio(total_E, count_E)),
    }
  return result


def _favourites(
  first_1T: np.ndarray, types: expert_sets.Types, num_experts: int, floor: int
) -> tuple[np.ndarray, np.ndarray]:
  """By id with `floor` choices, the largest share and its expert."""
  count_SE = types.counts(first_1T, num_experts)
  total_S = count_SE.sum(axis=1)
  keep_S = total_S >= max(floor, 1)
  best_S = count_SE.argmax(axis=1)
  share_S = count_SE.max(axis=1, initial=0) / np.maximum(total_S, 1)
  return share_S[keep_S], best_S[keep_S]
