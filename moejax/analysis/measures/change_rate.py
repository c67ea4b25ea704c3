"""Change rate: how much of the routing changes between checkpoints."""

import numpy as np

from moejax.analysis import bootstrap, expert_sets, rows
from moejax.analysis.measure import Rows
from moejax.analysis.trace import Trace
from moejax.analysis.traces import Traces


def change_rate(traces: Traces) -> Rows:
  r"""By later checkpoint and layer, the change since the checkpoint before.

  Three forms, each a mean over the occurrences of tokens:

    set       1/N sum_i |E_i(t+1) \ E_i(t)| / k, whatever the order; arXiv
              2505.10860, section 4. Where the numbers of experts differ, k is
              the larger.
    slot      share of ranks whose expert differs, of those that are filled at
              both checkpoints; `average_switch_fraction` in LibMoE's code.
    position  1 - the share of the earlier ranks that keep their expert;
              1 - `average_position_match` in LibMoE's code (arXiv 2411.00918).

  `slot` and `position` are equal where every token has k experts; a rank that
  is no longer filled has changed in `position` alone. Changes of order count in
  both, so that they are not below `set`. The rate depends on the number of
  steps between checkpoints, `steps`.
  """
  result: Rows = {}
  before = traces.each[0]
  for i in range(1, len(traces.each)):
    trace = traces.each[i]
    means = _means(before, trace, traces.documents)
    steps = {'steps': int(trace.step - before.step)}
    for name, row in rows.by_layer(trace, means).items():
      result[name] = steps | row
    before = trace
  return result


def _means(
  before: Trace, trace: Trace, documents: bootstrap.Documents
) -> dict[str, bootstrap.LayerMeans]:
  """The three forms by layer."""
  sums = {
    name: bootstrap.LayerSums(documents) for name in ('set', 'slot', 'position')
  }
  for n in range(len(trace.layers)):
    old_KT, new_KT = (expert_sets.of_layer(x, n) for x in (before, trace))
    old_WT, new_WT = (
      expert_sets.bits(x, trace.num_experts) for x in (old_KT, new_KT)
    )
    share_T, keep_T = expert_sets.overlap(old_WT, new_WT)
    sums['set'].add(1 - share_T, keep_T)
    ranks = min(len(old_KT), len(new_KT))
    old_RT, new_RT = old_KT[:ranks], new_KT[:ranks]
    both_T = ((old_RT >= 0) & (new_RT >= 0)).sum(axis=0)
    kept_T = ((old_RT == new_RT) & (new_RT >= 0)).sum(axis=0)
    sums['slot'].add(1 - kept_T / np.maximum(both_T, 1), both_T > 0)
    had_T = (old_KT >= 0).sum(axis=0)
    sums['position'].add(1 - kept_T / np.maximum(had_T, 1), had_T > 0)
  return {name: x.means() for name, x in sums.items()}
