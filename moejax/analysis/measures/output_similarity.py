"""Similarity of experts by their outputs on the same tokens."""

import numpy as np

from moejax.analysis import bootstrap, rows
from moejax.analysis.measure import Rows
from moejax.analysis.trace import Trace
from moejax.analysis.traces import ExpertOutputs, Traces


def output_similarity(traces: Traces) -> Rows:
  """By layer of the last checkpoint, cosines of outputs of chosen experts.

  `mean` is, over tokens with at least two experts, the mean over the pairs of
  the token's experts of ReLU(cos) of their outputs, which are not weighted:
  0 if they are orthogonal or opposed, 1 if they agree. `matrix` is the mean
  cosine by pair of experts over the tokens that chose both, None where no token
  did. An output of zeros has the cosine 0 with any other. Source: LibMoE, arXiv
  2411.00918.
  """
  if traces.outputs is None:
    raise ValueError('this measure needs the outputs of the experts')
  trace = traces.last
  layers = [_Layer(trace) for _ in trace.layers]
  for outputs in traces.outputs:
    layers[outputs.layer].add(outputs)
  result: Rows = {}
  for layer, sums in zip(trace.layers, layers, strict=True):
    result[f'layer {layer}'] = {
      'layer': int(layer),
      **rows.interval('mean', sums.mean(traces.seed)),
      'matrix': rows.numbers(rows.ratio(sums.cosine_EE, sums.count_EE)),
    }
  return result


class _Layer:
  """Sums of one layer over all batches."""

  def __init__(self, trace: Trace):
    shape = (trace.num_experts, trace.num_experts)
    self.cosine_EE, self.count_EE = np.zeros(shape), np.zeros(shape)
    # By batch: its documents, their sums and their numbers of tokens.
    self._documents: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []

  def add(self, outputs: ExpertOutputs) -> None:
    """Adds the tokens of a batch."""
    y_TKD = np.asarray(outputs.output_TKD, np.float32)
    expert_TK = np.asarray(outputs.expert_TK)
    norm_TK1 = np.linalg.norm(y_TKD, axis=2, keepdims=True)
    unit_TKD = y_TKD / np.where(norm_TK1 > 0, norm_TK1, 1)
    cosine_TKK = unit_TKD @ unit_TKD.transpose(0, 2, 1)
    has_TK = expert_TK >= 0
    pair_TKK = has_TK[:, :, None] & has_TK[:, None]
    pair_TKK &= ~np.eye(expert_TK.shape[1], dtype=bool)
    num_T = pair_TKK.sum(axis=(1, 2))
    total_T = (np.maximum(cosine_TKK, 0) * pair_TKK).sum(axis=(1, 2))
    keep_T = num_T > 0
    document_D, place = np.unique(
      outputs.document_T[keep_T], return_inverse=True
    )
    value = (total_T / np.maximum(num_T, 1))[keep_T]
    self._documents.append((
      document_D,
      np.bincount(place, weights=value, minlength=len(document_D)),
      np.bincount(place, minlength=len(document_D)),
    ))
    num = len(self.count_EE)
    expert_TKK = expert_TK[:, :, None].astype(np.int64) * num
    pair = (expert_TKK + expert_TK[:, None])[pair_TKK]
    self.count_EE += np.bincount(pair, minlength=num * num).reshape(num, num)
    self.cosine_EE += np.bincount(
      pair, weights=cosine_TKK[pair_TKK], minlength=num * num
    ).reshape(num, num)

  def mean(self, seed: int) -> bootstrap.Mean:
    """The mean over tokens, and its interval over documents."""
    if not self._documents:
      return bootstrap.Mean(np.nan, np.nan, np.nan)
    document, total, count = map(
      np.concatenate, zip(*self._documents, strict=True)
    )
    units = bootstrap.Documents.of(document, seed)
    total_U1, _ = units.sums(total)
    count_U1, _ = units.sums(count)
    return units.layer_means(total_U1, count_U1).all
