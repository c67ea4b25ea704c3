"""Calibrates a model: one pass over texts for the statistics of its experts.

`calibrate` reads the text batch by batch. A batch is summed on the devices, so
that [N, E] numbers come back of it, and none for each token; the host adds up
the batches in float64.
"""

import dataclasses
import functools
import hashlib
import json
from collections.abc import Callable, Sequence

import jax

from moejax.compress.statistics import ExpertStatistics
from moejax.convert import folder as folders
from moejax.convert import load, staging
from moejax.convert import tokenizer as tokenizers
from moejax.core import errors
from moejax.data.batch import Batch
from moejax.data.config import DataConfig
from moejax.evals.subject import Track, untracked
from moejax.model import build
from moejax.model.build import Model, Weights
from moejax.moe import calibration as calibration_sums
from moejax.moe.routes import RoutesRequest
from moejax.parallel import mesh as meshes
from moejax.parallel import rules
from moejax.run import (
  calibration_batches,
  data_progress,
  layer_source,
  layerwise_calibration,
  restore,
  trace_files,
  traced_text,
  trained,
)
from moejax.run.calibration_batches import Sums, Total, check_model
from moejax.run.traced_text import TracedText
from moejax.train import checkpoint

# EASY-EP takes 25 examples of a domain (arXiv 2504.06792, section 4.1).
DOCUMENTS = 25


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
    by_layer: whether one layer after the other is read from the checkpoint, for
      a model that does not fit in memory.
  """

  files: str | None = None
  mixture: str | None = None
  documents: int = DOCUMENTS
  tokens: int = 0
  outputs: bool = False
  step: str = checkpoint.NEWEST
  by_layer: bool = False


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
  text = _text(opened.run.data, calibration, note)
  if text.tokenizer:
    own = restore.run_of(workdir).data.vocab.fingerprint()
    check_tokenizer(text, own)
  if calibration.by_layer:
    reader = layer_source.of_workdir(
      workdir, opened.model, calibration.step, note
    )
    with reader as (read, step):
      return layerwise_calibration.calibrate(
        layer_source.LayerSource(opened.model, read),
        text,
        documents=calibration.documents,
        outputs=calibration.outputs,
        checkpoint=fingerprint(workdir, opened.model, step),
        track=track,
      )
  weights, step = opened.weights(calibration.step, note)
  return calibrate(
    opened.model,
    weights,
    text,
    documents=calibration.documents,
    outputs=calibration.outputs,
    checkpoint=fingerprint(workdir, opened.model, step),
    track=track,
  )


def calibrate_folder(
  folder: str,
  calibration: Calibration,
  *,
  track: Track = untracked,
  note: Callable[[str], None] = lambda _: None,
) -> dict[str, ExpertStatistics]:
  """As `calibrate_run`, of a Hugging Face folder, layer by layer.

  The folder need not be imported, and may be larger than memory.

  Args:
    folder: a folder, or `owner/name` on the hub.
    calibration: the text; `step` and `by_layer` do not matter.
    track: shows the progress through the layers.
    note: is called with a line before each thing that takes long.

  Raises:
    InputError: as `calibrate_run`; or the folder has no tokenizer.
  """
  plan = load.plan(folders.open_folder(folder))
  check_model(plan.config)
  if line := tokenizers.lacking(plan.folder.path):
    raise errors.InputError(
      f'{line}: no text can be read with it; convert the folder to a workdir '
      'and set data.vocab'
    )
  mesh = meshes.make(meshes.MeshConfig(data=1), jax.devices()[:1])
  model = build.build(plan.config, mesh)
  data = DataConfig(
    sequence_length=min(DataConfig().sequence_length, plan.config.max_length),
    vocab=tokenizers.vocab(plan.folder.path, plan.config.vocab_size),
  )
  return layerwise_calibration.calibrate(
    layer_source.LayerSource(model, layer_source.of_folder(plan, model)),
    _text(data, calibration, note),
    documents=calibration.documents,
    outputs=calibration.outputs,
    checkpoint=_digest(plan),
    track=track,
  )


def _text(
  data: DataConfig, calibration: Calibration, note: Callable[[str], None]
) -> TracedText:
  """The rows of the text that a calibration names."""
  return traced_text.open_text(
    data,
    data_progress.lines(note),
    note,
    files=calibration.files,
    mixture=calibration.mixture,
    tokens=calibration.tokens,
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
  for name, batches in calibration_batches.of(model, text, documents).items():
    total, tokens = Total(), 0
    waiting: Sums | None = None
    for batch in track(batches, f'Calibrating on {name}', len(batches)):
      tokens += calibration_batches.num_tokens(batch)
      sums = step(weights, calibration_batches.put(model, batch))
      if waiting is not None:
        # The devices compute this batch meanwhile.
        total.add(waiting)
      waiting = sums
    total.add(waiting or {})
    statistics[name] = calibration_batches.statistics(
      model.config,
      name,
      total,
      tokens=tokens,
      checkpoint=checkpoint,
      tokenizer=text.tokenizer,
    )
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


def _digest(plan: load.ImportPlan) -> str:
  """Identifies the weights of a folder."""
  text = json.dumps(staging.source(plan), sort_keys=True)
  return hashlib.sha256(text.encode()).hexdigest()[:16]


def check_tokenizer(text: TracedText, tokenizer: str) -> None:
  """Raises InputError if a text is of another tokenizer than the model."""
  if text.tokenizer != tokenizer:
    raise errors.InputError(
      f'the calibration text is packed with the tokenizer {text.tokenizer!r}, '
      f'but the model reads {tokenizer!r}; leave out --config.data.vocab, so '
      "that the text is packed with the model's own"
    )


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
      images=batch.images,
      routes=request,
    )
    sums = out.record.calibration
    assert sums is not None  # `check_model` has refused other models
    return sums

  return step
