"""Router saturation: how much of the final routing a checkpoint has already."""

from moejax.analysis import bootstrap, expert_sets, rows
from moejax.analysis.measure import Rows
from moejax.analysis.traces import Traces


def saturation(traces: Traces) -> Rows:
  r"""By earlier checkpoint t and layer, saturation against the last one, T.

      topk = 1/N sum_i |E_i(t) and E_i(T)| / k

  over the N occurrences of tokens, with E_i the k experts of occurrence i.
  `top1` is the same with the first of the ranks alone. Where the numbers of
  experts differ, k is the larger; an occurrence without an expert in both does
  not count. Source: OLMoE, arXiv 2409.02060, section 5.1; also arXiv
  2505.10860, section 4.
  """
  last, documents = traces.last, traces.documents
  final = [
    (experts_KT[:1].copy(), expert_sets.bits(experts_KT, last.num_experts))
    for experts_KT in (
      expert_sets.of_layer(last, n) for n in range(len(last.layers))
    )
  ]
  result: Rows = {}
  for i in range(len(traces.each) - 1):
    trace = traces.each[i]
    top1, topk = (bootstrap.LayerSums(documents) for _ in range(2))
    for n, (first_1T, final_WT) in enumerate(final):
      expert_KT = expert_sets.of_layer(trace, n)
      either_T = (expert_KT[0] >= 0) | (first_1T[0] >= 0)
      top1.add(expert_KT[0] == first_1T[0], either_T)
      set_WT = expert_sets.bits(expert_KT, last.num_experts)
      topk.add(*expert_sets.overlap(set_WT, final_WT))
    means = {'top1': top1.means(), 'topk': topk.means()}
    result |= rows.by_layer(trace, means)
  return result
