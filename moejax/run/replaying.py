"""A run's model with the routing of another model, live on the same batch."""

import dataclasses
from collections.abc import Callable

from moejax.core import errors
from moejax.data.batch import Batch
from moejax.evals.perplexity import Outputs
from moejax.model import build
from moejax.model.build import Model, Weights
from moejax.model.decoder import Decoder, DecoderOutput
from moejax.moe.replay import Replay
from moejax.moe.routes import RoutesRequest
from moejax.run import restore
from moejax.run.trained import Trained, open_trained
from moejax.train import checkpoint


@dataclasses.dataclass(frozen=True)
class Source:
  """The model whose routing is replayed.

  Attributes:
    model: the network, on the mesh of the model that replays.
    weights: its weights.
  """

  model: Model
  weights: Weights


def resolve(value: str, workdir: str, note: Callable[[str], None]) -> str:
  """A value of the interventions `replay`, with the step of its checkpoint.

  Example, of runs/tiny: 'best' is '350', 'runs/a' is 'runs/a@500'.

  Raises:
    InputError: there is no such workdir or checkpoint.
  """
  place, step = _parts(value, workdir)
  restore.run_of(place)  # raises if it is no workdir
  with restore.checkpoints(place, note) as saved:
    at = saved.find(step, f'--values={value}').step
  return str(at) if place == workdir else f'{place}@{at}'


def _parts(value: str, workdir: str) -> tuple[str, str]:
  """The workdir and the checkpoint that a value names."""
  if value.isdecimal() or value in (checkpoint.NEWEST, checkpoint.BEST):
    return workdir, value
  place, at, step = value.rpartition('@')
  return (place, step) if at else (value, checkpoint.NEWEST)


def check(trained: Trained, value: str) -> None:
  """Raises InputError if the routing that a value names does not fit."""
  place, _ = _parts(value, trained.workdir)
  if place == trained.workdir:
    return
  other = open_trained(place)
  own, theirs = trained.model.config, other.model.config
  sizes = {
    'layers with experts': (own.num_moe, theirs.num_moe),
    'experts': (own.moe.num_choices, theirs.moe.num_choices),
    'experts per token': (
      own.moe.router.experts_per_token,
      theirs.moe.router.experts_per_token,
    ),
  }
  for name, (mine, its) in sizes.items():
    if mine != its:
      raise errors.InputError(
        f'{place} has {its:g} {name}, but {trained.workdir} has {mine:g}: the '
        'routing of the one is none for the other'
      )
  if _tokenizer(trained) != _tokenizer(other):
    raise errors.InputError(
      f'{place} has another tokenizer than {trained.workdir}: the routing of '
      'the one is none for the other'
    )


def _tokenizer(trained: Trained) -> str:
  return trained.run.data.vocab.fingerprint()


def open_source(
  value: str, trained: Trained, note: Callable[[str], None]
) -> Source:
  """Reads the weights of the model that a value names."""
  place, step = _parts(value, trained.workdir)
  model = trained.model
  if place != trained.workdir:
    model = build.build(open_trained(place).model.config, model.mesh)
  weights, _ = restore.weights(model, place, note, step=step)
  return Source(model, weights)


def outputs(model: Model, source: Source, *, gates: bool) -> Outputs:
  """A pass of the model that replays the routing of the source.

  The weights that it is called with are those of both models, {'own': ...,
  'source': ...}.

  Args:
    model: the model that replays.
    source: the model that reads the same batch and chooses the experts.
    gates: whether the source weighs the experts as well.
  """

  def run(both: Weights, batch: Batch) -> tuple[Decoder, DecoderOutput]:
    inputs = batch.token_BL, batch.segment_BL, batch.position_BL
    chooser = source.model.bind(both['source'])
    images = batch.images
    chosen = chooser(*inputs, images=images, routes=RoutesRequest())
    routes = chosen.record.routes
    decoder = model.bind(both['own'])
    replay = Replay.of(routes, weights=gates)
    return decoder, decoder(*inputs, images=images, replay=replay)

  return run
