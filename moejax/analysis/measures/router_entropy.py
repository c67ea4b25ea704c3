"""Entropy of the router's probabilities, by frequency and position."""

import numpy as np

from moejax.analysis import bootstrap, rows
from moejax.analysis.measure import Rows
from moejax.analysis.trace import Trace
from moejax.analysis.traces import Traces


def entropy_by_frequency(traces: Traces) -> Rows:
  """By how often a token occurs in the text, the router's entropy in nats.

  A mean over the occurrences of all ids that occur between `from` and `to`
  times, over all layers of the last checkpoint; `by_layer` has that of each
  layer, and `types` the number of ids. The bins double: 1, 2 to 3, 4 to 7, ...
  ln E is the entropy of a router that cannot decide. Source: the token entropy
  of LibMoE's code (arXiv 2411.00918), which is of token types.
  """
  trace = traces.last
  _, type_T, count_S = np.unique(
    trace.token_T, return_inverse=True, return_counts=True
  )
  bin_S = _bin(count_S)
  result = _by_bin(traces, bin_S[type_T], 'occurrences', first=0)
  types = np.bincount(bin_S, minlength=1)
  for row in result.values():
    row['types'] = int(types[_bin(np.array([row['from']]))[0]])
  return result


def entropy_by_position(traces: Traces) -> Rows:
  """By the position of a token in its document, the router's entropy in nats.

  As `entropy_by_frequency`, with the bins 0, 1 to 2, 3 to 6, 7 to 14, ... of
  positions: what a router knows of a token's context grows with them.
  """
  position_T = np.maximum(traces.last.position_T, 0)
  return _by_bin(traces, _bin(position_T + 1), 'position', first=-1)


def _bin(count: np.ndarray) -> np.ndarray:
  """The number of the bin of each count from 1: its binary digits less one."""
  return np.frexp(count.astype(np.float64))[1].astype(np.int64) - 1


def _by_bin(traces: Traces, bin_T: np.ndarray, title: str, first: int) -> Rows:
  """Rows for the bins that have a token.

  Args:
    traces: of which the last is used.
    bin_T: bin of each token.
    title: in front of the bounds of a row's bin.
    first: what is added to a bin's bounds.
  """
  trace, documents = traces.last, traces.documents
  num_bins = int(bin_T.max(initial=-1)) + 1
  sums = [_sums(trace, n, documents, bin_T, num_bins) for n in _range(trace)]
  result: Rows = {}
  for number in range(num_bins):
    total_UN, count_UN = (
      np.stack([pair[which][:, number] for pair in sums], axis=1)
      for which in (0, 1)
    )
    tokens = int((bin_T == number).sum())
    if not tokens:
      continue
    low, high = 2**number + first, 2 ** (number + 1) - 1 + first
    means = documents.layer_means(total_UN, count_UN)
    name = f'{title} {low}' + (f' to {high}' if high > low else '')
    result[name] = {
      'from': low,
      'to': high,
      'tokens': tokens,
      **rows.interval('entropy', means.all),
      'by_layer': rows.numbers(np.array([x.value for x in means.layers])),
    }
  return result


def _range(trace: Trace) -> range:
  """The indices of the layers."""
  return range(len(trace.layers))


def _sums(
  trace: Trace,
  n: int,
  documents: bootstrap.Documents,
  bin_T: np.ndarray,
  num_bins: int,
) -> tuple[np.ndarray, np.ndarray]:
  """Sums and numbers of the n-th layer's entropies by document and bin."""
  entropy_T = trace.entropy_TN[:, n]
  finite_T = np.isfinite(entropy_T)
  return documents.sums(entropy_T, finite_T, bin_T, num_bins)
