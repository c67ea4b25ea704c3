"""Calibrates a model: one pass over texts for the statistics of its experts.

`calibrate` reads the text batch by batch. A batch is summed on the devices, so
that [N, E] numbers come back of it, and none for each token; the host adds up
the batches in float64.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import numpy as np

from moejax.compress.statistics import ExpertStatistics
from moejax.core import errors, table
from moejax.data import loader
from moejax.data.batch import Batch
from moejax.data.cache import RowReader
from moejax.evals.batches import rows_per_batch
from moejax.evals.subject import Track, untracked
from moejax.model.build import Model, Weights
from moejax.model.config import ModelConfig
from moejax.moe import calibration as calibration_sums
from moejax.moe.feed_forwards import FEED_FORWARDS
from moejax.moe.routers import ROUTERS
from moejax.moe.routes import RoutesRequest
from moejax.parallel import hosts, rules
from moejax.run import data_progress, restore, trace_files, traced_text, trained
from moejax.run.traced_text import DocumentNumbers, TracedText
from moejax.train import checkpoint

# EASY-EP takes 25 examples of a domain (arXiv 2504.06792, section 4.1).
DOCUMENTS = 25

# Sums by name: `ExpertStatistics` has the same names with N in front of E.
Sums = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Calibration:
  """The text that a model is calibrated on, and what is collected.

  Attributes:
    files: the user's own files, each a domain; see `traced_text.open_text`.
    mixture: name of a mixture or task, whose validation sets are the domains;
      without `files` and `mixture`, those of the run are.
    documents: number of documents of each domain, from its first; 0 for all.
    tokens: about how many tokens, in equal shares of the domains; 0 for all.
    outputs: whether the experts' outputs are compared with each other too, for
      which every expert computes every token.
    step: which checkpoint: newest, best, or a number.
  """

  files: str | None = None
  mixture: str | None = None
  documents: int = DOCUMENTS
  tokens: int = 0
  outputs: bool = False
  step: str = checkpoint.NEWEST


def calibrate_run(
  workdir: str,
  calibration: Calibration,
  overrides: Sequence[tuple[str, str]] = (),
  *,
  track: Track = untracked,
  note: Callable[[str], None] = lambda _: None,
) -> dict[str, ExpertStatistics]:
  """The statistics of each domain, of the model of a run or an imported one.

  Args:
    workdir: of the run, or of an imported model.
    calibration: the text.
    overrides: config keys to change, as dotted paths and texts.
    track: shows the progress through the batches of a domain.
    note: is called with a line before each thing that takes long.

  Raises:
    InputError: there is no such checkpoint, the model has no router with a
      choice for each token, or the text cannot be read, is empty, or is of
      another tokenizer.
  """
  opened = trained.open_trained(workdir, overrides, trace_files.USED)
  check_model(opened.model.config)
  text = traced_text.open_text(
    opened.run.data,
    data_progress.lines(note),
    note,
    files=calibration.files,
    mixture=calibration.mixture,
    tokens=calibration.tokens,
  )
  weights, step = opened.weights(calibration.step, note)
  if text.tokenizer:
    own = restore.run_of(workdir).data.vocab.fingerprint()
    check_tokenizer(text, own)
  return calibrate(
    opened.model,
    weights,
    text,
    documents=calibration.documents,
    outputs=calibration.outputs,
    checkpoint=fingerprint(workdir, opened.model, step),
    track=track,
  )


def calibrate(
  model: Model,
  weights: Weights,
  text: TracedText,
  *,
  documents: int = 0,
  outputs: bool = False,
  checkpoint: str = '',
  track: Track = untracked,
) -> dict[str, ExpertStatistics]:
  """The statistics of each domain of a text, in one pass over it.

  Every device computes all experts of its tokens, so that expert parallelism
  drops nothing; what a dispatcher with a capacity drops is not counted.

  Args:
    model: the network, on its mesh.
    weights: its weights.
    text: the rows of each domain.
    documents: number of documents of each domain, from its first; 0 for all.
    outputs: see `Calibration`.
    checkpoint: fingerprint of the weights, for the statistics.
    track: shows the progress through the batches of a domain.

  Raises:
    InputError: the model has no router with a choice for each token, the text
      has no token or an id that the model does not have, or the model gives
      numbers that are not finite.
  """
  check_model(model.config)
  step = _program(model, calibration_sums.request(output_gram=outputs))
  statistics = {}
  for name, batches in batches_of(model, text, documents).items():
    total = Total(model.config)
    waiting: tuple[int, Sums] | None = None
    for batch in track(batches, f'Calibrating on {name}', len(batches)):
      begun = num_tokens(batch), step(weights, put(model, batch))
      if waiting is not None:
        # The devices compute this batch meanwhile.
        total.add(*waiting)
      waiting = begun
    if waiting is not None:
      total.add(*waiting)
    statistics[name] = total.statistics(name, checkpoint, text.tokenizer)
  return statistics


def fingerprint(workdir: str, model: Model, step: int) -> str:
  """Identifies the weights of a checkpoint, for `ExpertStatistics`.

  Args:
    workdir: of the run.
    model: its network.
    step: of the checkpoint.
  """
  with restore.checkpoints(workdir) as saved:
    extra = saved.find(str(step)).extra
  run = trace_files.fingerprint(restore.run_of(workdir), model, extra)
  return f'{run}@{step}'


def check_model(config: ModelConfig) -> None:
  """Raises InputError unless each token chooses experts, by their logits."""
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


def check_tokenizer(text: TracedText, tokenizer: str) -> None:
  """Raises InputError if a text is of another tokenizer than the model."""
  if text.tokenizer != tokenizer:
    raise errors.InputError(
      f'the calibration text is packed with the tokenizer {text.tokenizer!r}, '
      f'but the model reads {tokenizer!r}; leave out --config.data.vocab, so '
      "that the text is packed with the model's own"
    )


@dataclasses.dataclass(frozen=True)
class Batches(Sequence[Batch]):
  """The batches of one domain, numpy arrays; a batch is made when it is read.

  Attributes:
    reader: the rows.
    num_rows: how many of them are read, from the first.
    size: rows of a batch.
  """

  reader: RowReader
  num_rows: int
  size: int

  def __len__(self) -> int:
    return -(-self.num_rows // self.size)

  def __getitem__(self, index: Any) -> Any:
    if isinstance(index, slice):
      return [self[n] for n in range(*index.indices(len(self)))]
    if not 0 <= index < len(self):
      raise IndexError(index)
    batch = loader.eval_batch(self.reader, index, self.size)
    rest = self.num_rows - index * self.size
    return _masked(batch, np.arange(self.size)[:, None] < rest)


def batches_of(
  model: Model, text: TracedText, documents: int
) -> dict[str, Sequence[Batch]]:
  """The batches of each domain, with everything else as padding.

  Args:
    model: see `calibrate`.
    text: see `calibrate`.
    documents: see `calibrate`.

  Raises:
    InputError: a domain has no token, or ids that the model does not have.
  """
  size = rows_per_batch(model)
  domains: dict[str, Sequence[Batch]] = {}
  for name, reader in text.readers.items():
    whole = Batches(reader, text.num_rows[name], size)
    domains[name] = whole
    if documents:
      domains[name] = list(_first_documents(whole, documents, text.eos_id))
    first = next(iter(domains[name]), None)
    if first is None or not num_tokens(first):
      raise errors.InputError(
        f'the calibration text {name!r} has no token: name a text with at '
        'least one document, or leave this domain out'
      )
    largest = int(max(first.token_BL.max(), first.target_BL.max()))
    if largest >= model.config.vocab_size:
      raise errors.InputError(
        f'the calibration text {name!r} has the id {largest}, but the model '
        f'has {model.config.vocab_size} ids: it is of another tokenizer; pack '
        "it with the model's own"
      )
  return domains


def _first_documents(
  batches: Sequence[Batch], documents: int, eos_id: int | None
) -> Iterator[Batch]:
  """The batches up to a number of documents; later ones are padding."""
  numbers = DocumentNumbers(eos_id)
  for batch in batches:
    wanted_BL = numbers.of(batch) < documents
    cut = _masked(batch, wanted_BL)
    if num_tokens(cut):
      yield cut
    if not (wanted_BL | (batch.segment_BL == 0)).all():
      return


def _masked(batch: Batch, keep: np.ndarray) -> Batch:
  """The batch with all other tokens as padding."""
  return batch.replace(segment_BL=np.where(keep, batch.segment_BL, 0))


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


@functools.lru_cache(maxsize=4)
def _program(
  model: Model, request: RoutesRequest
) -> Callable[[Weights, Batch], Sums]:
  """A jitted function from a batch to its sums, [N, ...] of the N layers."""
  # Replicated, so that every process of a run can read them.
  whole = rules.replicated(model.mesh)

  @functools.partial(jax.jit, out_shardings=whole)
  def step(weights: Weights, batch: Batch) -> Sums:
    out = model.bind(weights)(
      batch.token_BL,
      batch.segment_BL,
      batch.position_BL,
      routes=request,
    )
    sums = out.record.calibration
    assert sums is not None  # `check_model` has refused other models
    return sums

  return step


class Total:
  """Sums over batches, in float64.

  Args:
    config: of the model.
  """

  def __init__(self, config: ModelConfig):
    self._config = config
    self._tokens = 0
    self._sums: dict[str, np.ndarray] = {}

  def add(self, tokens: int, sums: Sums) -> None:
    """Adds a batch, [N, ...]; waits for the devices."""
    self._tokens += tokens
    for name, x in jax.device_get(sums).items():
      x = np.asarray(x, np.float64)
      self._sums[name] = self._sums[name] + x if name in self._sums else x

  def statistics(
    self, domain: str, checkpoint: str, tokenizer: str
  ) -> ExpertStatistics:
    """The statistics of all batches.

    Args:
      domain: name of the text, for errors.
      checkpoint: fingerprint of the weights.
      tokenizer: fingerprint of the tokenizer.

    Raises:
      InputError: a sum is not finite.
    """
    bad = [name for name, x in self._sums.items() if not np.isfinite(x).all()]
    if bad:
      layer = np.argwhere(~np.isfinite(self._sums[bad[0]]))[0][0]
      raise errors.InputError(
        f'the calibration on {domain!r} gives numbers that are not finite, '
        f'first in layer {layer} of those with experts: the model has '
        'diverged, or its type is too small; try --config.model.dtype=float32'
      )
    fields: Any = {
      name.replace('_E', '_NE'): x for name, x in self._sums.items()
    }
    return ExpertStatistics(
      tokens=self._tokens,
      first_layer=self._config.kinds.index('moe'),
      checkpoint=checkpoint,
      tokenizer=tokenizer,
      **fields,
    )
