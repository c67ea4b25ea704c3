"""Playground: the experts of the tokens of a text that a model continues.

For `cli.generate --show-routing`. The model continues a prompt; then it reads
the whole text once, prompt and continuation, and the experts of every token are
shown, beside those of a changed model if there is one.
"""

import argparse
import json
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from moejax.analysis import interventions
from moejax.analysis.interventions import base
from moejax.analysis.trace import NOWHERE
from moejax.core import errors, terminal
from moejax.core.console import Console
from moejax.data.vocab import Vocab
from moejax.model import build, rounded
from moejax.model.build import Model
from moejax.run import generation, routing_view, text_routing
from moejax.run.text_routing import Reading, Shown
from moejax.run.trained import Trained

UNCHANGED = 'unchanged'
# Value of `--show-routing` alone: the first, the middle and the last layer.
SOME, ALL = 'some', 'all'
# Layers that an error names one by one.
MOST_NAMED = 8
FORM = re.compile(r'(some|all|(\d{1,6})(?:-(\d{1,6}))?)(?:,(\d{1,6}))?')


def add_flags(flags: argparse.ArgumentParser) -> None:
  """Adds the flags that show routings."""
  add = flags.add_argument_group('routing').add_argument
  add(
    '--show-routing',
    '--show_routing',
    nargs='?',
    const=SOME,
    metavar='LAYERS[,RANK]',
    help='show the experts of each token: in layer 3 (3), in layers 2 to 5 '
    '(2-5), in all, or, without a value, in the first, middle and last layer '
    'with experts; RANK is 1 for the expert with the largest weight',
  )
  add('--intervene', metavar='NAME=VALUE', help='show a changed model beside')
  add('--json', action='store_true', help='print texts, or routings, as JSON')


def check(args: argparse.Namespace) -> None:
  """Raises InputError if a flag needs `--show-routing` and it is not there."""
  if args.show_routing is None and args.intervene:
    raise errors.InputError('--intervene needs --show-routing')
  if args.intervene and args.weights != rounded.FULL:
    raise errors.InputError(
      f'--intervene is of full weights: leave out --weights={args.weights}'
    )


def parse_shown(text: str, model: Model, workdir: str) -> Shown:
  """The layers and the rank that a value of `--show-routing` names.

  Example, a model whose layers 1 to 5 have experts:
    'some'   layers 1, 3 and 5        '3,1'   layer 3, the first choice
    '2-4'    layers 2, 3 and 4        'all'   all five

  Raises:
    InputError: the text is none of these, the model has no layers with routed
      experts, or not those.
  """
  match = FORM.fullmatch(text)
  if match is None:
    raise errors.InputError(
      f'--show-routing={text} is not LAYERS[,RANK]: give a layer such as 3, '
      'layers such as 2-5, or all; and then a rank, such as 3,1'
    )
  numbers = base.layers_with_experts(model.config)
  if not numbers:
    raise errors.InputError(
      f'the model of {workdir} has no layer with routed experts, so there is '
      'no routing to show; leave out --show-routing'
    )
  layers, first, last, rank = match.groups()
  if rank is not None:
    most = text_routing.num_ranks(model)
    if not 1 <= int(rank) <= most:
      raise errors.InputError(
        f'--show-routing={text}: rank {rank} must be from 1 to {most}, the '
        'experts of a token'
      )
  return Shown(
    _indices(text, layers, first, last, numbers),
    None if rank is None else int(rank) - 1,
  )


def _indices(
  text: str,
  layers: str,
  first: str | None,
  last: str | None,
  numbers: Sequence[int],
) -> tuple[int, ...]:
  """Indices among the layers with experts; arguments as in `parse_shown`."""
  end = len(numbers) - 1
  if layers == SOME:
    return tuple(sorted({0, end // 2, end}))
  if layers == ALL:
    return tuple(range(len(numbers)))
  low, high = int(first or 0), int(last or first or 0)
  if high < low:
    raise errors.InputError(
      f'--show-routing={text}: layers from {low} to {high} are none; give '
      f'{high}-{low}'
    )
  chosen = [i for i, number in enumerate(numbers) if low <= number <= high]
  if not chosen or high > numbers[-1]:
    known = ', '.join(map(str, numbers))
    if len(numbers) > MOST_NAMED:
      known = f'{numbers[0]} to {numbers[-1]}'
    raise errors.InputError(
      f'--show-routing={text}: layer {high if chosen else low} has no experts; '
      f'layers with experts: {known}'
    )
  return tuple(chosen)


def run(
  trained: Trained,
  request: generation.GenerationRequest,
  args: argparse.Namespace,
  write: Callable[[str], None],
) -> None:
  """Continues the prompts, and shows the routing of each whole text.

  With an intervention the changed model continues the prompts too. The routings
  are those of one text, that of the unchanged model, so that they can be
  compared token by token.

  Args:
    trained: the model.
    request: the prompts.
    args: the flags of `add_flags`, `workdir` and `step`.
    write: writes a piece of text to standard output.
  """
  if request.images:
    raise errors.InputError(
      '--show-routing shows the experts of texts alone: leave the images out'
    )
  shown = parse_shown(args.show_routing, trained.model, args.workdir)
  job = generation.prepare(trained, request, terminal.note)
  models = {UNCHANGED: trained.model}
  if args.intervene:
    models[args.intervene] = _changed(trained.model, args.intervene)
  weights, step = job.weights(args.step, terminal.note)
  ids: dict[str, list[list[int]]] = {}
  for name, model in models.items():
    ids[name] = []
    if len(models) > 1 and not args.json:
      write(f'--- {name}\n')
    for piece in job.pieces(model, weights, ids[name], terminal.note):
      if not args.json:
        write(piece)
  vocab = trained.run.data.vocab
  texts = []
  for number, row in enumerate(ids[UNCHANGED]):
    row = _read_ids(row, job.end_ids, trained.model.config.max_length)
    readings = {
      name: text_routing.read(model, weights, row, step)
      for name, model in models.items()
    }
    if args.json:
      written = {name: vocab.decode(ids[name][number]) for name in models}
      texts.append(_json(vocab, row, readings, shown, written))
      continue
    console = Console(highlight=False)
    if len(ids[UNCHANGED]) > 1:
      write(f'--- routing of {number + 1}\n')
    routing_view.show(console, vocab, row, readings, shown)
  if args.json:
    result = {'workdir': args.workdir, 'step': step, 'texts': texts}
    write(json.dumps(result, indent=2) + '\n')


def _changed(model: Model, text: str) -> Model:
  """The model under an intervention, which has the same weights.

  Raises:
    InputError: there is no such intervention, or it does not fit the model.
  """
  try:
    config = interventions.apply(model.config, text)
  except errors.InputError as error:
    raise errors.InputError(f'--intervene={error}') from None
  return build.build(config, model.mesh)


def _read_ids(
  ids: Sequence[int], end_ids: Sequence[int], max_length: int
) -> list[int]:
  """The ids of a text that the model reads: no end token, and what has room."""
  kept = [*ids[:-1]] if ids[-1] in end_ids else [*ids]
  return kept[:max_length]


def _json(
  vocab: Vocab,
  ids: Sequence[int],
  readings: Mapping[str, Reading],
  shown: Shown,
  written: Mapping[str, str],
) -> dict[str, Any]:
  """The routing of one text as plain values.

  `models` has, by name, the `text` that the model itself wrote, the loss in
  `nats` of each token (null for the first), and by number of the layer the
  `experts` and `weights` of each token, and whether they were `dropped`.
  """
  ranks = slice(None)
  if shown.rank is not None:
    ranks = slice(shown.rank, shown.rank + 1)
  models = {}
  for name, reading in readings.items():
    trace, layers = reading.trace, {}
    for index in shown.layers:
      expert_TK = trace.expert_TNK[:, index, ranks]
      weight_TK = trace.weight_TNK[:, index, ranks]
      dropped_TK = trace.dropped_TNK[:, index, ranks]
      there_TK = expert_TK != NOWHERE
      lists = lambda x_TK, there_TK=there_TK: [
        x_K[there_K].tolist()
        for x_K, there_K in zip(x_TK, there_TK, strict=True)
      ]
      layers[str(trace.layers[index])] = {
        'experts': lists(expert_TK),
        'weights': lists(weight_TK),
        'dropped': lists(dropped_TK),
        'entropy': trace.entropy_TN[:, index].tolist(),
      }
    models[name] = {
      'text': written[name],
      'nats': [None, *reading.nats_T[1:].tolist()],
      'layers': layers,
    }
  pieces = text_routing.pieces_of(vocab, ids)
  tokens = [
    {'id': token, 'text': text} for token, text in zip(ids, pieces, strict=True)
  ]
  return {'tokens': tokens, 'models': models}
