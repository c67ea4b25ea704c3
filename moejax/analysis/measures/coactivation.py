"""Co-activation: which experts are chosen together."""

import numpy as np

from moejax.analysis import expert_sets, rows
from moejax.analysis.measure import Rows
from moejax.analysis.traces import Traces

STRONGEST = 5  # pairs that are listed
CHUNK = 1 << 16  # tokens whose masks are in memory at once


def coactivation(traces: Traces, adjacent: bool = False) -> Rows:
  """By layer of the last checkpoint, N_ij / N_i.

  N_i is the number of tokens that chose expert i, N_ij that of tokens that
  chose both: `matrix` holds the share of i's tokens that chose j too, row i,
  column j, with 1 on the diagonal. The row of an expert that no token chose is
  None. `largest` is the largest value off the diagonal, and `strongest` lists
  the largest ones as [i, j, value]. `chance` is (k - 1) / (E - 1), the mean off
  the diagonal, which is the same for all routers with k experts for a token; E
  is the number of experts that the layer has. `count` has N_i.

  Source: OLMoE, arXiv 2409.02060, section 5.2. Its code counts only pairs of
  adjacent ranks, as `adjacent` does.
  """
  trace = traces.last
  result: Rows = {}
  for n, layer in enumerate(trace.layers):
    expert_KT = expert_sets.of_layer(trace, n)
    count_E = expert_sets.counts(expert_KT, trace.num_experts)[0]
    pair_EE = _pairs(expert_KT, trace.num_experts, adjacent)
    share_EE = rows.ratio(pair_EE, count_E[:, None])
    np.fill_diagonal(share_EE, np.where(count_E > 0, 1, np.nan))
    size = rows.ratio(count_E.sum(), (expert_KT >= 0).any(axis=0).sum())
    others = trace.has(n).sum() - 1
    strongest = _strongest(share_EE)
    result[f'layer {layer}'] = {
      'layer': int(layer),
      'largest': strongest[0][2] if strongest else None,
      'chance': rows.number(rows.ratio(size - 1, others)),
      'strongest': strongest,
      'count': count_E.tolist(),
      'matrix': rows.numbers(share_EE),
    }
  return result


def _pairs(
  expert_KT: np.ndarray, num_experts: int, adjacent: bool
) -> np.ndarray:
  """pair_EE: the number of tokens that chose both, symmetric."""
  k = len(expert_KT)
  # Counting pairs takes k^2 / 2 passes over the tokens, the product of masks
  # about E^2 / 16 of them.
  if not adjacent and k * k > num_experts**2 / 8:
    return _masks_product(expert_KT, num_experts)
  width = num_experts + 1  # the first row and column are those of NOWHERE
  pair = np.zeros(width * width, np.int64)
  for a in range(k):
    start_T = (expert_KT[a].astype(np.int32) + 1) * width + 1
    for b in range(a + 1, min(k, a + 2) if adjacent else k):
      pair += np.bincount(start_T + expert_KT[b], minlength=len(pair))
  pair_EE = pair.reshape(width, width)[1:, 1:]
  return pair_EE + pair_EE.T


def _masks_product(expert_KT: np.ndarray, num_experts: int) -> np.ndarray:
  """The pairs as mask^T mask, which has the counts on its diagonal."""
  pair_EE = np.zeros((num_experts, num_experts))
  for start in range(0, expert_KT.shape[1], CHUNK):
    part_KT = expert_KT[:, start : start + CHUNK]
    mask_TE = np.zeros((part_KT.shape[1], num_experts + 1), np.float32)
    for expert_T in part_KT:
      mask_TE[np.arange(len(mask_TE)), expert_T] = 1
    mask_TE = mask_TE[:, :-1]
    pair_EE += mask_TE.T @ mask_TE
  return pair_EE


def _strongest(share_EE: np.ndarray) -> list[list[float]]:
  """The largest values off the diagonal, [i, j, value], in falling order."""
  value_EE = np.where(np.isnan(share_EE), 0, share_EE)
  np.fill_diagonal(value_EE, 0)
  order = np.argsort(-value_EE, axis=None, kind='stable')[:STRONGEST]
  pairs = zip(*np.unravel_index(order, value_EE.shape), strict=True)
  return [
    [int(i), int(j), round(float(value_EE[i, j]), rows.DIGITS)]
    for i, j in pairs
    if value_EE[i, j] > 0
  ]
