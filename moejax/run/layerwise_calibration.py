"""Calibrates a model one layer at a time, for models that do not fit in memory.

In memory are the hidden states of all batches, on the host; the sums; and the
weights of one layer. Each layer is read once and applied to every batch before
the next is read. The calibration text is small, so its hidden states are: 25
documents of 4,000 tokens of a model of width 2,048 are 0.4 GB in bfloat16.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax

from moejax.compress.statistics import ExpertStatistics
from moejax.core import errors
from moejax.data.batch import Batch
from moejax.evals.subject import Track, untracked
from moejax.model.build import Model
from moejax.model.layerwise import Layers, places
from moejax.moe import calibration as calibration_sums
from moejax.run import calibration_batches
from moejax.run.calibration_batches import Total, stacked
from moejax.run.layer_source import LayerSource
from moejax.run.traced_text import TracedText

# Tokens of a batch on one device, at most, unless a row has more.
TOKENS = 4096


@dataclasses.dataclass
class _Waiting:
  """A batch between two layers, as arrays on the host.

  Attributes:
    batch: the tokens.
    state: x_BLD, and what the next layer reads of the one before.
  """

  batch: Batch
  state: Any


def calibrate(
  source: LayerSource,
  text: TracedText,
  *,
  documents: int = 0,
  outputs: bool = False,
  checkpoint: str = '',
  track: Track = untracked,
) -> dict[str, ExpertStatistics]:
  """The statistics of each domain of a text, as `calibrating.calibrate`.

  Args:
    source: the weights.
    text: the rows of each domain.
    documents: number of documents of each domain, from its first; 0 for all.
    outputs: see `calibrating.Calibration`.
    checkpoint: fingerprint of the weights, for the statistics.
    track: shows the progress through the layers.

  Raises:
    InputError: as `calibrating.calibrate`; or this is one of several processes.
  """
  model = source.model
  calibration_batches.check_model(model.config)
  if jax.process_count() > 1:
    raise errors.InputError(
      f'one process calibrates layer by layer, and this is one of '
      f'{jax.process_count()}: start the command on one machine, or calibrate '
      'the whole model'
    )
  domains = calibration_batches.of(model, text, documents, TOKENS)
  waiting = _begin(source, domains)
  order = places(model.config)
  last = max(n for n, place in enumerate(order) if place.kind == 'moe')
  order = order[: last + 1]
  totals: dict[str, list[Total]] = {name: [] for name in domains}
  for place in track(order, 'Calibrating layer by layer', len(order)):
    run = _program(model, place.kind, outputs)
    weights = source.layer(place.kind, place.index)
    for name, batches in waiting.items():
      total = Total()
      for item in batches:
        batch = calibration_batches.put(model, item.batch)
        state, sums = run(weights, batch, item.state, place.spec)
        if sums is not None:
          total.add(sums)
        item.state = jax.device_get(state)
      if place.kind == 'moe':
        totals[name].append(total)
    del weights, batch, state, sums
  return {
    name: calibration_batches.statistics(
      model.config,
      name,
      stacked(totals[name]),
      tokens=sum(map(calibration_batches.num_tokens, batches)),
      checkpoint=checkpoint,
      tokenizer=text.tokenizer,
    )
    for name, batches in domains.items()
  }


def _begin(
  source: LayerSource, domains: Mapping[str, Sequence[Batch]]
) -> dict[str, list[_Waiting]]:
  """The batches of each domain before the first layer."""
  model = source.model
  layers = Layers.of(model)
  embed = jax.jit(layers.begin)
  embed_VD = source.embedding()
  waiting = {}
  for name, batches in domains.items():
    waiting[name] = [
      _Waiting(
        batch,
        jax.device_get(
          embed(embed_VD, calibration_batches.put(model, batch).token_BL)
        ),
      )
      for batch in batches
    ]
  return waiting


@functools.lru_cache(maxsize=4)
def _program(model: Model, kind: str, outputs: bool) -> Callable[..., Any]:
  """A jitted function of one layer: the state behind it, and its sums or None.

  Its arguments are the layer's weights, the batch, the state before it and the
  layer's spec.
  """
  layers = Layers.of(model)
  request = calibration_sums.request(output_gram=outputs)

  @jax.jit
  def run(weights, batch, state, spec):
    x_BLD, previous = state
    tokens = layers.context(
      batch.token_BL, batch.segment_BL, batch.position_BL, request
    )
    x_BLD, previous, record = layers.run(
      (kind, spec), weights, x_BLD, previous, tokens
    )
    return (x_BLD, previous), record.calibration

  return run
