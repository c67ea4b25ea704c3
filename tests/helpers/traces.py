"""Made-up traces, and their files."""

import numpy as np

from moejax.analysis.trace import NOWHERE, Trace
from moejax.analysis.trace_file import Header
from moejax.analysis.trace_writer import TraceWriter
from moejax.data import features
from moejax.run import traced_text

LAYERS, DOMAINS, EXPERTS = (1, 3), ('code', 'news'), 6


def made_up(
  num_tokens=40, *, k=2, step=100, seed=0, domains=DOMAINS, logits=False
):
  """A trace of random numbers."""
  rng = np.random.default_rng(seed)
  shape = (num_tokens, len(LAYERS), k)
  expert_TNK = rng.integers(NOWHERE, EXPERTS, shape).astype(np.int16)
  real = lambda *more: rng.random((num_tokens, len(LAYERS), *more), np.float32)
  return Trace(
    step=step,
    tokens_seen=step * 10,
    layers=LAYERS,
    num_experts=EXPERTS,
    domains=domains,
    expert_TNK=expert_TNK,
    weight_TNK=np.where(expert_TNK == NOWHERE, np.float32(0), real(k)),
    dropped_TNK=rng.random(shape) < 0.1,
    entropy_TN=real(),
    token_T=rng.integers(0, 500, num_tokens).astype(np.int32),
    position_T=np.arange(num_tokens, dtype=np.int32) % 7,
    document_T=np.arange(num_tokens, dtype=np.int32) // 7,
    domain_T=np.sort(rng.integers(0, len(domains), num_tokens, np.int16)),
    logits_TNE=real(EXPERTS) if logits else None,
  )


def header(trace, **more):
  """The header of a trace's file."""
  names = ('step', 'tokens_seen', 'layers', 'num_experts', 'domains')
  return Header(**{name: getattr(trace, name) for name in names}, **more)


def write(path, batches, **more):
  """Writes batches of one trace as a file."""
  with TraceWriter(path, header(batches[0], **more)) as writer:
    for batch in batches:
      writer.add(batch)
  return path


def arrays(*batches):
  """The arrays of the batches, one after the other, by field."""
  return {
    name: np.concatenate([getattr(batch, name) for batch in batches])
    for name, value in vars(batches[0]).items()
    if isinstance(value, np.ndarray)
  }


def assert_same(got, *batches):
  """Compares a trace with batches laid end to end: values and types."""
  want = arrays(*batches)
  assert arrays(got).keys() == want.keys()
  for name, array in want.items():
    assert getattr(got, name).dtype == array.dtype, name
    np.testing.assert_array_equal(getattr(got, name), array, err_msg=name)


class Rows:
  """Packed rows in memory, as `data.cache.RowReader` has them."""

  fingerprint = contents = 'in memory'
  num_bytes = 0

  def __init__(self, target_NL, segment_NL, first_id=0):
    self._rows = np.asarray(target_NL), np.asarray(segment_NL)
    self.num_rows, self.length = self._rows[0].shape
    self.num_tokens = int(np.count_nonzero(self._rows[1]))
    self.first_id = first_id
    self.read = []  # the index of every row that was read

  def rows(self, index_N):
    self.read += list(index_N)
    return features.Rows(*(x[index_N] for x in self._rows))


def text(readers, *, eos_id=None, num_rows=None):
  """A TracedText of such rows; all of them unless said."""
  every = {name: reader.num_rows for name, reader in readers.items()}
  return traced_text.TracedText(
    readers, every | (num_rows or {}), 'made up', eos_id
  )
