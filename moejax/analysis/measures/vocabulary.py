"""Vocabulary of an expert: tokens that choose it far above its rate."""

from typing import Any

import numpy as np

from moejax.analysis import expert_sets, rows
from moejax.analysis.measure import Rows
from moejax.analysis.trace import Trace
from moejax.analysis.traces import Traces

FLOOR = 10  # choices of the expert by the token, below which it is not listed
LIFT = 2.0  # times the expert's rate, below which a token is not listed
NUM = 20  # tokens that are listed


def vocabulary(
  traces: Traces, floor: int = FLOOR, lift: float = LIFT, num: int = NUM
) -> Rows:
  """By layer of the last checkpoint and expert, the tokens that are typical.

  Experts that a layer does not have are left out.

  A token x is typical of expert E if (N_x,E / N_x) / (N_E / N) >= `lift`, with
  N_x,E >= `floor`: of its N_x occurrences, so many times more chose E than of
  all N occurrences. `tokens` lists the `num` with the largest lift as [id,
  N_x,E, N_x,E / N_x, lift], of equals the more frequent first; `types` is the
  number of all of them. `rate` is N_E / N. Source: the token lists of OLMoE,
  arXiv 2409.02060, section 5.4 (by share, with the same floor), with the share
  over the expert's rate in its place, so that a busy expert does not list what
  every expert gets.
  """
  trace = traces.last
  types = expert_sets.Types.of(trace.token_T, floor)
  result: Rows = {}
  for n, layer in enumerate(trace.layers):
    listed = _layer(trace, n, types, floor, lift, num)
    for expert in np.flatnonzero(trace.has(n)).tolist():
      result[f'layer {layer}, expert {expert}'] = {
        'layer': int(layer),
        'expert': expert,
        **listed[expert],
      }
  return result


def _layer(
  trace: Trace,
  n: int,
  types: expert_sets.Types,
  floor: int,
  lift: float,
  num: int,
) -> list[dict[str, Any]]:
  """The row of each expert of the n-th layer."""
  expert_KT = expert_sets.of_layer(trace, n)
  routed_T = np.any(expert_KT >= 0, axis=0)
  count_SE = types.counts(expert_KT, trace.num_experts)
  total_S = types.occurrences(routed_T)
  count_E = expert_sets.counts(expert_KT, trace.num_experts)[0]
  rate_E = rows.ratio(count_E, routed_T.sum())
  listed = []
  for count_S, rate in zip(count_SE.T, rate_E, strict=True):
    place = np.flatnonzero(count_S >= max(floor, 1))
    count, share = count_S[place], count_S[place] / total_S[place]
    lifts = share / rate if len(place) else share
    typical = lifts >= lift
    order = np.lexsort((-count[typical], -lifts[typical]))[:num]
    columns = (types.id_S[place], count, share, lifts)
    id_, count, share, lifts = (x[typical][order] for x in columns)
    tokens = [
      [int(i), int(c), round(float(s), rows.DIGITS), round(float(x), 2)]
      for i, c, s, x in zip(id_, count, share, lifts, strict=True)
    ]
    listed.append({
      'rate': rows.number(rate),
      'types': int(typical.sum()),
      'tokens': tokens,
    })
  return listed
