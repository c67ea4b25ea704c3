"""The batches of a calibration text, and the sums over them.

A text is cut to some documents of each domain before it is read. Sums of
batches are added up on the host, in float64.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, cast

import jax
import numpy as np

from moejax.compress.statistics import ExpertStatistics
from moejax.core import errors, table
from moejax.data import features, loader
from moejax.data.batch import Batch
from moejax.data.cache import RowReader
from moejax.data.features import Rows
from moejax.evals.batches import rows_per_batch
from moejax.model.build import Model
from moejax.model.config import ModelConfig
from moejax.moe.feed_forwards import FEED_FORWARDS
from moejax.moe.routers import ROUTERS
from moejax.parallel import hosts
from moejax.parallel import mesh as meshes
from moejax.run.traced_text import DocumentNumbers, TracedText
from moejax.vision.front_end import TextOnly

# Tokens of a batch on one device, at most, unless a row has more. Experts are
# computed in stages, whose rows are arrays in memory.
TOKENS = 16384
BLOCK = 64  # rows that are read at once to count documents

# Sums by name: `ExpertStatistics` has the same names with N in front of E.
Sums = dict[str, Any]


def check_model(config: ModelConfig) -> None:
  """Raises InputError unless each token chooses experts, by their logits.

  Nor can a model be calibrated that reads images: texts have none.
  """
  if config.vision != TextOnly():
    raise errors.InputError(
      'model.vision.name=encoder cannot be calibrated: the texts of a '
      'calibration have no images; use a model of text'
    )
  if not config.is_routed:
    name = table.name_of(FEED_FORWARDS, config.feed_forward)
    raise errors.InputError(
      f'model.feed_forward={name} cannot be calibrated: no router chooses some '
      'experts for each token, so there is no count, gate or output of an '
      'expert to compare; use a model with routed experts'
    )
  if not config.num_moe:
    raise errors.InputError(
      'the model has no layer with routed experts: there is nothing to '
      'calibrate'
    )
  router = config.moe.router
  name = table.name_of(ROUTERS, router)
  if not router.causal:
    raise errors.InputError(
      f'model.moe.router={name} cannot be calibrated: its experts choose their '
      'tokens among all of a sequence, always equally many, so neither counts '
      'nor gates say which experts a text needs; use a model whose tokens '
      'choose experts'
    )
  if config.moe.num_logits != config.moe.num_choices:
    raise errors.InputError(
      f'model.moe.router={name} cannot be calibrated: it has '
      f'{config.moe.num_logits} logits for {config.moe.num_choices} experts, '
      'so no logit stands for one expert; use a model whose router has a logit '
      'for each'
    )


@dataclasses.dataclass(frozen=True)
class Beginning:
  """The first rows of a text that `loader.eval_batch` reads.

  Attributes:
    length: L.
    first_id: the id that the model reads at the start of every segment.
    num_rows: number of rows.
    rows: gives target_NL and segment_NL of the rows at some indices.
  """

  length: int
  first_id: int
  num_rows: int
  rows: Callable[[np.ndarray], Rows]


@dataclasses.dataclass(frozen=True)
class Batches(Sequence[Batch]):
  """The batches of one domain, numpy arrays; a batch is made when it is read.

  Attributes:
    text: the rows.
    size: rows of a batch; what the text does not fill is padding.
  """

  text: Beginning
  size: int

  def __len__(self) -> int:
    return -(-self.text.num_rows // self.size)

  def __getitem__(self, index: Any) -> Any:
    if isinstance(index, slice):
      return [self[n] for n in range(*index.indices(len(self)))]
    if not 0 <= index < len(self):
      raise IndexError(index)
    return loader.eval_batch(cast(RowReader, self.text), index, self.size)


def of(
  model: Model, text: TracedText, documents: int, tokens: int = TOKENS
) -> dict[str, Batches]:
  """The batches of each domain, all of the same size.

  Args:
    model: the network, on its mesh.
    text: the rows of each domain.
    documents: number of documents of each domain, from its first; 0 for all.
    tokens: about how many tokens of a batch a device has, at most.

  Raises:
    InputError: a domain has no token, or ids that the model does not have.
  """
  beginnings = {}
  for name, reader in text.readers.items():
    num_rows = text.num_rows[name]
    beginning = Beginning(reader.length, reader.first_id, num_rows, reader.rows)
    if documents and num_rows:
      beginning = _first_documents(beginning, documents, text.eos_id)
    _check(name, beginning, model.config.vocab_size)
    beginnings[name] = beginning
  shards = meshes.batch_size(model.mesh)
  most = max(beginning.num_rows for beginning in beginnings.values())
  length = max(beginning.length for beginning in beginnings.values())
  rows = min(-(-most // shards), max(1, tokens // length))
  size = min(rows * shards, rows_per_batch(model))
  return {name: Batches(x, size) for name, x in beginnings.items()}


def _first_documents(
  text: Beginning, documents: int, eos_id: int | None
) -> Beginning:
  """The rows up to a number of documents, in memory; the rest is padding."""
  numbers = DocumentNumbers(eos_id)
  targets, segments = [], []
  for start in range(0, text.num_rows, BLOCK):
    stop = min(start + BLOCK, text.num_rows)
    rows = text.rows(np.arange(start, stop))
    batch = features.expand(*rows, text.first_id)
    wanted_BL = numbers.of(batch) < documents
    kept_BL = np.where(wanted_BL, batch.segment_BL, 0)
    has_B = kept_BL.any(axis=1)
    targets.append(batch.target_BL[has_B])
    segments.append(kept_BL[has_B])
    if not wanted_BL[batch.segment_BL > 0].all():
      break
  target_NL, segment_NL = np.concatenate(targets), np.concatenate(segments)
  return dataclasses.replace(
    text,
    num_rows=len(target_NL),
    rows=lambda index_N: Rows(target_NL[index_N], segment_NL[index_N]),
  )


def _check(name: str, text: Beginning, vocab_size: int) -> None:
  """Raises InputError unless the first rows have tokens that a model reads."""
  count = min(text.num_rows, BLOCK)
  target_NL, segment_NL = text.rows(np.arange(count))
  if not np.any(segment_NL):
    raise errors.InputError(
      f'the calibration text {name!r} has no token: name a text with at least '
      'one document, or leave this domain out'
    )
  largest = int(np.max(target_NL))
  if largest >= vocab_size:
    raise errors.InputError(
      f'the calibration text {name!r} has the id {largest}, but the model has '
      f"{vocab_size} ids: it is of another tokenizer; pack it with the model's "
      'own'
    )


def num_tokens(batch: Batch) -> int:
  """Tokens of a batch, padding left out."""
  return int(np.count_nonzero(batch.segment_BL))


def put(model: Model, batch: Batch) -> Batch:
  """The batch on the devices, split over the mesh."""
  rows = len(batch.token_BL)
  mine = hosts.my_rows(rows, model.mesh)
  if mine is not None:
    batch = jax.tree.map(lambda x: x[mine], batch)
  return hosts.put_rows(batch, model.mesh, mine, rows)


class Total:
  """Sums over batches by name, in float64."""

  def __init__(self) -> None:
    self.sums: dict[str, np.ndarray] = {}

  def add(self, sums: Sums) -> None:
    """Adds a batch; waits for the devices."""
    for name, array in sums.items():
      x = hosts.fetch(array).astype(np.float64)
      self.sums[name] = self.sums[name] + x if name in self.sums else x


def stacked(totals: Sequence[Total]) -> Total:
  """The sums [N, ...] of N layers, from those of each, [...]."""
  total = Total()
  for name in totals[0].sums:
    total.sums[name] = np.stack([layer.sums[name] for layer in totals])
  return total


def statistics(
  config: ModelConfig,
  domain: str,
  total: Total,
  **fields: Any,
) -> ExpertStatistics:
  """The statistics of a domain.

  Args:
    config: of the model.
    domain: name of the domain, for errors.
    total: sums over its batches, [N, ...].
    **fields: further fields of the statistics.

  Raises:
    InputError: a sum is not finite.
  """
  bad = [name for name, x in total.sums.items() if not np.isfinite(x).all()]
  if bad:
    layer = np.argwhere(~np.isfinite(total.sums[bad[0]]))[0][0]
    raise errors.InputError(
      f'the calibration on {domain!r} gives numbers that are not finite, first '
      f'in layer {layer} of those with experts: the model has diverged, or its '
      'type is too small; try --config.model.dtype=float32'
    )
  fields |= {name.replace('_E', '_NE'): x for name, x in total.sums.items()}
  return ExpertStatistics(first_layer=config.kinds.index('moe'), **fields)
