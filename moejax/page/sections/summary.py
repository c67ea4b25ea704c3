"""The section on top: what was trained, how far, and how well."""

import statistics
from collections.abc import Iterator, Mapping
from typing import Any

from moejax.page import markup, numbers
from moejax.page.data import PageData
from moejax.page.markup import Html
from moejax.page.section import Section

SPEED = 'time/tokens_per_s'


def summary(data: PageData) -> Html | None:
  """Facts about the run, then the scores of each validation set."""
  parts = [*facts(data)]
  if not parts:
    return None
  cards = markup.joined(
    markup.element(
      'div', markup.element('dt', name), markup.element('dd', value)
    )
    for name, value in parts
  )
  return markup.joined([
    markup.element('dl', cards, class_='facts'),
    scores(data.report),
  ])


def facts(data: PageData) -> Iterator[tuple[str, str]]:
  """Name and value of each fact that is known."""
  if data.config:
    yield 'Model', _model(data)
  if data.report and 'total_parameters' in data.report:
    total = numbers.count(data.report['total_parameters'])
    active = numbers.count(data.report['active_parameters'])
    yield 'Parameters', f'{total}, of which a token uses {active}'
  if state := _state(data):
    yield 'State', state
  tokens = trained_tokens(data)
  if tokens:
    yield 'Tokens', numbers.count(tokens)
  if bits := mean(data.report, 'bits_per_byte'):
    yield 'Bits per byte', f'{bits:.3f}, mean over the validation sets'
  elif loss := (mean(data.report, 'loss') or data.last('eval/loss')):
    yield 'Validation loss', f'{loss:.3f} nats per token'
  speeds = data.series(SPEED)[1]
  if speeds:
    median = statistics.median(speeds)
    yield 'Speed', f'{median:,.0f} tokens per second (median)'
  if data.goodput:
    spent = data.goodput['seconds']
    total_s = sum(spent.values())
    share = spent.get('step', 0.0) / total_s if total_s else 0.0
    yield (
      'Time',
      f'{numbers.seconds(total_s)}, {numbers.percent(share, 0)} of it in '
      'training steps',
    )
  if data.versions:
    devices = data.versions.get('devices', {})
    kind = f'{devices.get("count", "?")} × {devices.get("kind", "?")}'
    yield 'Devices', f'{kind}, {numbers.text(data.key("model.dtype"))}'
    if commit := (data.versions.get('git') or {}).get('commit'):
      yield 'Commit', commit[:12]


def _model(data: PageData) -> str:
  layers = numbers.text(data.key('model.num_layers'))
  width = numbers.text(data.key('model.width'))
  shape = f'{layers} layers of width {width}'
  experts = data.key('model.moe.num_experts')
  if not experts:
    return shape
  router = data.key('model.moe.router')
  name = router.get('name') if isinstance(router, Mapping) else router
  k = router.get('k') if isinstance(router, Mapping) else None
  chosen = f', {k} of {experts} experts' if k else f', {experts} experts'
  shared = data.key('model.moe.num_shared')
  return f'{shape}{chosen} + {shared} shared, router {name}'


def _state(data: PageData) -> str | None:
  """How far the run is; None without a config and metrics."""
  steps = data.key('train.steps')
  if data.report:
    return f'finished, {data.report.get("steps", steps):,} steps'
  if data.metrics:
    of = '' if steps is None else f' of {steps:,}'
    return f'unfinished, at step {data.metrics[-1]["step"]:,}{of}'
  return 'no training step' if steps else None


def trained_tokens(data: PageData) -> int:
  """Tokens of the batches that the run has trained on; 0 if unknown."""
  step = data.metrics[-1]['step'] if data.metrics else 0
  batch = data.key('train.batch_size') or 0
  return step * batch * (data.key('data.sequence_length') or 0)


def mean(report: Mapping[str, Any] | None, key: str) -> float | None:
  """The mean of a score over validation sets; None if one lacks it."""
  domains = (report or {}).get('domains') or {}
  values = [row.get(key) for row in domains.values()]
  if not values or None in values:
    return None
  return statistics.fmean(values)


def scores(report: Mapping[str, Any] | None) -> Html | None:
  """The table of scores by validation set; None without any."""
  domains = (report or {}).get('domains')
  if not domains:
    return None
  head = ['Validation set', 'Loss, nats per token', 'Perplexity', 'Accuracy']
  columns = {'bits_per_byte': 'Bits per byte', 'unigram': 'Unigram, bits per '
             'byte', 'xz': 'xz -9, bits per byte'}  # fmt: skip
  shown = [
    key for key in columns if any(row.get(key) for row in domains.values())
  ]
  answers = {'exact': 'Exact answers', 'most_frequent': 'Most frequent answer'}
  talk = [k for k in answers if any(k in row for row in domains.values())]
  rows = []
  for name, row in domains.items():
    cells = [_with_interval(row, key) for key in shown]
    cells += [numbers.percent(row.get(key)) for key in talk]
    rows.append([
      name,
      numbers.fixed(row['loss']),
      numbers.fixed(row['perplexity'], 1),
      numbers.percent(row.get('accuracy')),
      *cells,
    ])
  caption = (
    'Scores of the last checkpoint. Brackets: 95% confidence interval by a '
    'bootstrap over rows. Unigram and xz -9 need no network.'
  )
  more = [columns[key] for key in shown] + [answers[key] for key in talk]
  return markup.table([*head, *more], rows, caption)


def _with_interval(row: Mapping[str, Any], key: str) -> str:
  value = numbers.fixed(row.get(key))
  low, high = row.get('bits_low'), row.get('bits_high')
  if key == 'bits_per_byte' and low is not None and high is not None:
    return f'{value} [{low:.3f}, {high:.3f}]'
  return value


SECTION = Section(
  'Summary', summary, 'config.json or metrics.jsonl of a run that has begun'
)
