"""The table of several runs: what differs, how well, how fast."""

import statistics
from collections.abc import Sequence
from typing import Any

from moejax.page import markup, numbers
from moejax.page.data import PageData
from moejax.page.markup import Html, joined
from moejax.page.section import Comparison
from moejax.page.sections import config, summary

# Beginnings of keys that change neither weights nor speed.
HARMLESS = (
  'report.',
  'evals.',
  'train.keep_',
  'train.log_every',
  'train.load_every',
  'train.compile_cache',
  'data.cache_dir',
)

# Keys without a use in a dense model, but for the second.
EXPERTS = 'model.moe.'
NUM_EXPERTS = 'model.moe.num_experts'


def table(runs: Sequence[PageData]) -> Html | None:
  """A row for each run, then the config keys in which they differ."""
  if not runs:
    return None
  head = ['Run', 'State', 'Loss', 'Bits per byte', 'Largest load',
          'Dead experts', 'Tokens per second', 'Active parameters']  # fmt: skip
  rows = [row(data) for data in runs]
  caption = (
    'Loss (nats per token) and bits per byte: means over the validation sets '
    'of the report, or of the last evaluation while training. Largest load: '
    'over the mean of its layer, in the worst layer of the last batch that was '
    'logged.'
  )
  return joined([markup.table(head, rows, caption), differences(runs)])


def row(data: PageData) -> list[str]:
  """The cells of a run."""
  facts = dict(summary.facts(data))
  loss = summary.mean(data.report, 'loss') or data.last('eval/loss')
  speeds = data.series(summary.SPEED)[1]
  return [
    data.name,
    facts.get('State', '–'),
    numbers.fixed(loss),
    numbers.fixed(summary.mean(data.report, 'bits_per_byte')),
    numbers.fixed(data.last('moe/load_max'), 2),
    numbers.percent(data.last('moe/dead_experts')),
    numbers.count(statistics.median(speeds) if speeds else None),
    numbers.count((data.report or {}).get('active_parameters')),
  ]


def differences(runs: Sequence[PageData]) -> Html | None:
  """The config keys whose values are not the same in all runs.

  Keys of experts count among the runs that have experts; a dense run has the
  number of its experts alone, which is 0.
  """
  flats = [dict(config.flat(data.config or {})) for data in runs]
  is_dense = [flat.get(NUM_EXPERTS) == 0 for flat in flats]
  keys = {key: None for flat in flats for key in flat if key}
  rows = []
  for key in keys:
    values = [flat.get(key, ABSENT) for flat in flats]
    if key.startswith(EXPERTS) and key != NUM_EXPERTS:
      values = [
        UNUSED if dense else value
        for value, dense in zip(values, is_dense, strict=True)
      ]
    if key.startswith(HARMLESS):
      continue
    used = [value for value in values if value is not UNUSED]
    if any(value != used[0] for value in used):
      nothing = ABSENT, UNUSED
      shown = ['–' if v in nothing else numbers.text(v) for v in values]
      rows.append([key, *shown])
  if not rows:
    return None
  head = ['Key', *(data.name for data in runs)]
  return markup.table(head, rows, 'Keys of the config that differ.')


# In place of values: of a key that a run does not have, or has without a use.
ABSENT: Any = object()
UNUSED: Any = object()

COMPARISON = Comparison('Runs', table, 'a workdir')
