"""docs/evaluation.md lists every benchmark as the tables have it.

After an intended change, UPDATE_GOLDEN=1 python -m pytest with this file writes
the list anew.
"""

import os
import pathlib

from moejax.evals.benchmarks import SUITES

PAGE = pathlib.Path(__file__).parents[3] / 'docs' / 'evaluation.md'
BEGIN, END = '<!-- benchmarks -->\n', '<!-- /benchmarks -->\n'
HEAD = (
  '| benchmark | suite | source | split | shots | metric | form |\n'
  '|---|---|---|---|---|---|---|\n'
)


def source(dataset):
  """Repository and configuration."""
  if not dataset.hub:
    return 'local'
  several = f'{len(dataset.configs)} configurations' if dataset.configs else ''
  config = dataset.config or several
  return f'{dataset.hub} ({config})' if config else dataset.hub


def metric(benchmark):
  groups = ', mean of groups' if benchmark.group_mean else ''
  return f'`{benchmark.metric}`{groups}'


def form(benchmark):
  """What a question looks like, and what a reader of a score should know."""
  first = (benchmark.item.__doc__ or '').strip().split('\n')[0].rstrip('.')
  return '; '.join(text for text in (first, benchmark.note) if text)


def line(suite, name, benchmark):
  cells = (
    name,
    suite,
    source(benchmark.dataset),
    benchmark.dataset.split,
    str(benchmark.shots),
    metric(benchmark),
    form(benchmark).replace('|', '\\|'),
  )
  return f'| {" | ".join(cells)} |\n'


def table():
  entries = sorted(
    (name, suite) for suite, known in SUITES.items() for name in known
  )
  return HEAD + ''.join(
    line(suite, name, SUITES[suite][name]) for name, suite in entries
  )


def test_the_page_lists_every_benchmark():
  text = PAGE.read_text()
  before, _, rest = text.partition(BEGIN)
  listed, _, after = rest.partition(END)
  if os.environ.get('UPDATE_GOLDEN'):
    PAGE.write_text(before + BEGIN + table() + END + after)
    return
  assert listed == table(), (
    f'UPDATE_GOLDEN=1 python -m pytest {pathlib.Path(__file__).name} writes '
    f'{PAGE.name} anew'
  )
