"""Domain specialisation: the share of a domain's tokens that an expert gets."""

import numpy as np

from moejax.analysis import expert_sets, rows
from moejax.analysis.measure import Rows
from moejax.analysis.traces import Traces


def domain_specialisation(traces: Traces) -> Rows:
  """By layer of the last checkpoint and domain D, N_E,D / N_D of each expert.

  N_D is the number of the domain's tokens and N_E,D that of those which chose
  expert E: `share` with all of a token's experts, k = their number, and `top1`
  with the first alone; None for an expert that the layer does not have.
  `uniform` is k / E, the share of each of its experts without specialisation;
  `largest` is the largest share, that of `expert`, None without
  an assignment. The shares of a domain without tokens are None. Source: OLMoE,
  arXiv 2409.02060, section 5.3.
  """
  trace, documents = traces.last, traces.documents
  num_domains, num_experts = len(trace.domains), trace.num_experts
  domain_T = trace.domain_T.astype(np.int64)
  tokens_UD = documents.sums(
    np.ones(len(domain_T)), group_T=domain_T, groups=num_domains
  )[1]
  drawn_BD1 = (documents.draws @ tokens_UD)[:, :, None]
  tokens_D = tokens_UD.sum(axis=0)
  group_T = documents.unit_T * num_domains + domain_T
  shape = (documents.num, num_domains, num_experts)
  result: Rows = {}
  for n, layer in enumerate(trace.layers):
    expert_KT, has_E = expert_sets.of_layer(trace, n), trace.has(n)
    only = lambda value_E, has_E=has_E: np.where(has_E, value_E, np.nan)
    count_UDE, first_UDE = (
      expert_sets.counts(
        ids, num_experts, group_T, documents.num * num_domains
      ).reshape(shape)
      for ids in (expert_KT, expert_KT[:1])
    )
    drawn = documents.draws @ count_UDE.reshape(
      len(count_UDE), num_domains * num_experts
    )
    drawn_BDE = rows.ratio(drawn.reshape(-1, *shape[1:]), drawn_BD1)
    low_DE, high_DE = documents.interval(drawn_BDE)
    share_DE = rows.ratio(count_UDE.sum(axis=0), tokens_D[:, None])
    top1_DE = rows.ratio(first_UDE.sum(axis=0), tokens_D[:, None])
    for d, domain in enumerate(trace.domains):
      chosen = count_UDE[:, d].any()
      best = int(share_DE[d].argmax()) if chosen else None
      result[f'layer {layer}, {domain}'] = {
        'layer': int(layer),
        'domain': domain,
        'tokens': int(tokens_D[d]),
        'largest': None if best is None else rows.number(share_DE[d, best]),
        'expert': best,
        'uniform': rows.number(share_DE[d][has_E].mean()),
        'share': rows.numbers(only(share_DE[d])),
        'share_low': rows.numbers(only(low_DE[d])),
        'share_high': rows.numbers(only(high_DE[d])),
        'top1': rows.numbers(only(top1_DE[d])),
      }
  return result
