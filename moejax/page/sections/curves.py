"""The section of the curves of training: loss, bits per byte, gradients."""

from collections.abc import Sequence
from typing import Any

from moejax.page import figures
from moejax.page.data import PageData
from moejax.page.markup import Html, joined
from moejax.page.section import Section

STEP = 'Training step'
MOST_POINTS = 600  # of a curve, which a screen can show
PREFIX, SUFFIX = 'eval/', '/loss'

# By metric: its name in the menu, and the title of its axis.
OTHERS = {
  'gradient_norm': ('Gradient norm', 'Norm of the gradient'),
  'learning_rate': ('Learning rate', 'Learning rate'),
  'distillation': (
    'Divergence from the teacher',
    'KL(teacher || student), nats per token',
  ),
  'accuracy': ('Accuracy', 'Share of tokens predicted'),
  'time/tokens_per_s': ('Speed', 'Tokens per second'),
  'time/model_flops_utilisation': ('Utilisation', 'Model-FLOPs utilisation'),
}


def curves(data: PageData) -> Html | None:
  """Loss of training and validation, then other curves by a menu."""
  frames = [frame for frame in (loss_frame(data), bits_frame(data)) if frame]
  if not frames:
    return None
  shown = [
    figures.show(
      'loss',
      'Loss over training',
      figures.chosen(
        figures.lines([], x=STEP, y=''),
        frames,
        by=figures.MENU,
        label='Score',
      ),
      'Solid: validation sets, on the batches that are evaluated while '
      'training. Thin: the training batch. Bits per byte: the loss times the '
      'tokens per byte of the whole validation set, over ln 2.',
    )
  ]
  if others := other_frames(data):
    shown.append(
      figures.show(
        'training-curves',
        'Other curves of training',
        figures.chosen(
          figures.lines([], x=STEP, y=''),
          others,
          by=figures.MENU,
          label='Curve',
        ),
      )
    )
  return joined(shown)


def thinned(values: Sequence[Any], most: int = MOST_POINTS) -> list[Any]:
  """At most `most` of the values, evenly spread, the last one included."""
  every = -(-len(values) // most)
  return [*values[::-1][::every]][::-1] if every > 1 else [*values]


def series(
  data: PageData, name: str, most: int = MOST_POINTS
) -> tuple[list[int], list[float]]:
  """Steps and values of a metric, at most `most` of them."""
  steps, values = data.series(name)
  return thinned(steps, most), thinned(values, most)


def domains(data: PageData) -> list[str]:
  """Names of the validation sets that were evaluated while training."""
  names = {
    name[len(PREFIX) : -len(SUFFIX)]
    for row in data.metrics
    for name in row
    if name.startswith(PREFIX) and name.endswith(SUFFIX) and name.count('/') > 1
  }
  return sorted(names)


def loss_frame(data: PageData) -> dict[str, Any] | None:
  """The curves of the loss; None without any."""
  shown = []
  steps, losses = series(data, 'loss')
  if steps:
    shown.append({
      **figures.curve('training batch', steps, losses),
      'thin': True,
    })
  for name in domains(data):
    steps, losses = series(data, f'{PREFIX}{name}{SUFFIX}')
    shown.append(figures.curve(name, steps, losses))
  if not shown:
    return None
  return {'frame': 'Loss', 'y': 'Loss, nats per token', 'curves': shown}


def bits_frame(data: PageData) -> dict[str, Any] | None:
  """The curves of bits per byte; None before the report of the run."""
  shown = []
  for name, row in ((data.report or {}).get('domains') or {}).items():
    steps, losses = series(data, f'{PREFIX}{name}{SUFFIX}')
    if row.get('bits_per_byte') and row['loss'] and steps:
      bits_per_nat = row['bits_per_byte'] / row['loss']
      bits = [loss * bits_per_nat for loss in losses]
      shown.append(figures.curve(name, steps, bits))
  if not shown:
    return None
  return {'frame': 'Bits per byte', 'y': 'Bits per byte', 'curves': shown}


def other_frames(data: PageData) -> list[dict[str, Any]]:
  """A frame for each of OTHERS that the run has, and for its benchmarks."""
  metrics = {name for row in data.metrics for name in row}
  named = {key: OTHERS[key] for key in OTHERS if key in metrics}
  for key in sorted(metrics):
    if key.startswith('evals/'):
      named[key] = (key.removeprefix('evals/'), 'Score')
  return [
    {
      'frame': name,
      'y': title,
      'curves': [figures.curve(name, *series(data, key))],
    }
    for key, (name, title) in named.items()
  ]


SECTION = Section('Training', curves, 'lines of metrics.jsonl')
