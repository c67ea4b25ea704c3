"""The report of a finished run: scores, experts by domain, samples.

It is written to `report.json` in the workdir; that file marks the run as
finished.
"""

import importlib.util
import json
import math
import shlex
from concurrent import futures
from typing import Any

import numpy as np
from etils import epath

from moejax.analysis import MEASURES
from moejax.config import kept_tokenizer
from moejax.core import columns, errors, files
from moejax.evals import EVALS
from moejax.evals.subject import Subject
from moejax.run import benchmark_hook, evaluation
from moejax.run.context import Context
from moejax.run.screen import Screen

REPORT, PAGE = 'report.json', 'report.html'
# Before the command for TensorBoard, where it is not installed.
INSTALL = 'pip install tensorboard && '
# Columns in bits per byte of the same text: key in report.json -> header.
BITS = {'bits_per_byte': 'bits/byte', 'unigram': 'unigram', 'xz': 'xz -9'}
# Columns of conversations: shares of answers.
ANSWERS = {'exact': 'exact answers', 'most_frequent': 'most frequent'}


def read(folder: epath.Path) -> dict[str, Any] | None:
  """The report of a workdir; None while its run is not finished.

  Raises:
    InputError: the file is damaged.
  """
  path = folder / REPORT
  if not path.exists():
    return None
  try:
    kept = json.loads(path.read_text())
  except ValueError as e:
    raise errors.InputError(
      f'{path} cannot be read ({e}): remove it, and the command that trained '
      'the run writes it anew'
    ) from None
  # The folder may have been moved or copied since the report was written.
  return {**kept, 'workdir': str(folder)}


def write(report: dict[str, Any], folder: epath.Path) -> None:
  """Writes the report, which marks the run as finished."""
  files.atomic_write_json(folder / REPORT, report)


def remove(folder: epath.Path) -> None:
  """Removes report and page, so that the run counts as unfinished."""
  for name in (REPORT, PAGE):
    (folder / name).unlink(missing_ok=True)


def make(
  context: Context, weights: Any, folder: epath.Path, screen: Screen
) -> dict[str, Any]:
  """Scores every validation set, and generates samples; see ReportConfig.

  Args:
    context: the run.
    weights: the weights to score.
    folder: workdir of the run.
    screen: shows progress.

  Returns:
    `workdir`; `first_layer`, the number of the first layer with experts;
    `domains`, the rows of the perplexity evaluation; `experts`, by domain and
    layer the experts used most, [expert, share]; `benchmarks`, the results of
    `report.suite` by task; `samples`, a list of `prompt` and `text`.
    `run/train.py` adds `steps`, `best` (step and loss of the lowest validation
    loss) and the numbers of parameters.
  """
  data, config = context.data, context.run.report
  hf_folder = None
  if config.samples and data.vocab is not None:
    hf_folder = kept_tokenizer.folder(data.vocab, folder)
  subject = Subject(
    model=context.model,
    weights=weights,
    data=data,
    hf_folder=hf_folder,
    limit=config.eval_batches,
    seed=context.run.seed,
    note=screen.line,
    track=screen.track,
  )
  samples = _beside_the_scores(context, subject, screen)
  domains = EVALS['perplexity'](subject)
  benchmarks = benchmark_hook.report(context, weights, str(folder), screen)
  return {
    'workdir': str(folder),
    'first_layer': context.run.model.num_dense,
    'domains': domains,
    'experts': _top_experts(subject),
    'benchmarks': benchmarks,
    'samples': [{'prompt': key, **row} for key, row in samples.items()],
  }


def _beside_the_scores(
  context: Context, subject: Subject, screen: Screen
) -> dict[str, dict[str, Any]]:
  """Scores the validation sets; computes baselines and samples meanwhile.

  The samples are mostly compilation, by one thread, and xz has processes of its
  own. On several devices the samples come first: programs of two threads could
  wait for each other's exchanges.

  Returns:
    The samples.
  """
  wanted, alone = context.run.report.samples, subject.model.mesh.size == 1
  make = (lambda: EVALS['samples'](subject)) if wanted else dict
  with futures.ThreadPoolExecutor(2, 'moejax-report') as pool:
    baselines = None
    if context.data.vocab is not None and not context.run.report.eval_batches:
      tasks = [domain.task for domain in context.data.domains.values()]
      if any(task.has_text and not task.masked for task in tasks):
        screen.line(
          'Compressing the text with xz -9 (once), to compare with ...'
        )
      baselines = pool.submit(_compute_baselines, context)
    samples = pool.submit(make)
    if not alone:
      samples.result()
    _ = subject.scores  # computed here, and kept
    if baselines is not None:
      baselines.result()
    return samples.result()


def _compute_baselines(context: Context) -> None:
  """Puts the baselines on disk, where the perplexity evaluation reads them."""
  data = context.data
  work = lambda: [data.baselines(name) for name in data.validation]
  context.processes.group.main_first('baselines', work)


def _top_experts(subject: Subject) -> dict[str, Any]:
  """By domain, the experts most used in each layer; {} without experts."""
  statistics = evaluation.routing_statistics(subject)
  if not statistics.count_NE:
    return {}
  rows = MEASURES['top_experts'](statistics)
  return {
    domain: [row[domain] for row in rows.values()]
    for domain in statistics.count_NE
  }


def show(report: dict[str, Any], screen: Screen) -> None:
  """Shows the report, and commands to go on with."""
  screen.line('')
  for line in _score_lines(report['domains']):
    screen.line(line)
  for line in _benchmark_lines(report.get('benchmarks', {})):
    screen.line(line)
  for line in _expert_lines(report['experts'], report['first_layer']):
    screen.line(line)
  for number, sample in enumerate(report['samples'], 1):
    screen.line('')
    screen.line(f'Sample {number}, prompt {sample["prompt"]!r}:')
    for line in sample['text'].splitlines():
      screen.line(f'  {line}')
  if line := _best_line(report):
    screen.line('')
    screen.line(line)
  folder = report['workdir']
  screen.line('')
  screen.line(
    f'The run is in {folder}: metrics.jsonl, tensorboard/, checkpoints/.'
  )
  if (epath.Path(folder) / PAGE).exists():
    screen.line(f'Its page is {folder}/{PAGE}: open it in a browser.')
  screen.line('Next:')
  quoted = shlex.quote(folder)
  talks = any('exact' in row for row in report['domains'].values())
  asked = "--chat --prompt='Hello'" if talks else "--prompt='In the'"
  screen.command(f'moejax generate --workdir={quoted} {asked}')
  if any(
    row['bits_per_byte'] is not None for row in report['domains'].values()
  ):
    screen.command(f'moejax evaluate --workdir={quoted} --suite=offline')
  screen.command(
    ('' if importlib.util.find_spec('tensorboard') else INSTALL)
    + f'tensorboard --logdir={quoted}/tensorboard'
  )
  screen.command(
    'moejax train --config=tiny --workdir=runs/my_texts '
    "--config.data.files='/my/texts/*.txt'"
  )


def _best_line(report: dict[str, Any]) -> str:
  """A line on an earlier checkpoint with a lower loss; '' without one."""
  best = report.get('best')
  if best is None or best[0] == report['steps']:
    return ''
  step, loss = best
  return (
    f'The lowest loss of an evaluation in training was {loss:.3f}, at step '
    f'{step}: --step=best takes that checkpoint.'
  )


def _score_lines(domains: dict[str, dict[str, Any]]) -> list[str]:
  """A table of the scores of each domain and their mean."""
  # Made-up rows have no bytes, parts of validation sets have no baselines.
  shown = [
    k for k in BITS if any(row[k] is not None for row in domains.values())
  ]
  talk = [k for k in ANSWERS if any(k in row for row in domains.values())]
  head = [BITS[key] for key in shown] + [ANSWERS[key] for key in talk]
  lines = [['validation', 'loss', 'perplexity', *head]]
  for name, row in {**domains, 'mean': _mean([*domains.values()])}.items():
    bits = [row[key] for key in shown]
    cells = ['-' if x is None else f'{x:.3f}' for x in bits]
    shares = [row.get(key) for key in talk]
    cells += ['-' if x is None else f'{x:.1%}' for x in shares]
    lines.append([
      name,
      f'{row["loss"]:.3f}',
      f'{row["perplexity"]:.1f}',
      *cells,
    ])
  table = columns.aligned(lines)
  if talk:
    table.append(
      '(exact answers: each token is the most probable one; most frequent: the'
    )
    table.append('share of one answer, which would be got without a model)')
  if len(shown) < len(BITS):
    return table
  return [
    *table,
    '(the last three in bits per byte of the same text; unigram: token',
    'frequencies of the training text; xz -9: what it adds to that text)',
  ]


def _mean(rows: list[dict[str, Any]]) -> dict[str, Any]:
  """The mean over domains, each counted once; perplexity of the mean loss."""
  mean: dict[str, Any] = {}
  for key in rows[0]:
    values = [row[key] for row in rows if row.get(key) is not None]
    whole = len(values) == len(rows)
    mean[key] = float(np.mean(values)) if whole else None
  loss = float(np.mean([row['loss'] for row in rows]))
  mean['perplexity'] = math.exp(min(loss, 700.0))
  return mean


def _benchmark_lines(results: dict[str, Any]) -> list[str]:
  """A table of benchmarks, with their notes; no lines without any."""
  if not results:
    return []
  rows = [['benchmark', 'metric', 'items', 'percent', 'note']]
  for name, result in results.items():
    metric = result['metric']
    cell = f'{100 * result["means"][metric]:.1f}'
    if (error := result['errors'][metric]) is not None:
      cell += f' ± {100 * error:.1f}'
    rows.append([name, metric, str(result['items']), cell, result['note']])
  return ['', *columns.aligned(rows, left=(0, 1, 4))]


def _expert_lines(experts: dict[str, Any], first_layer: int) -> list[str]:
  """A table of the experts used most; no lines without experts."""
  if not experts:
    return []
  num_layers = len(next(iter(experts.values())))
  lines = [['layer', *experts]]
  for layer in range(num_layers):
    cells = [
      ' '.join(f'{e}:{share:.0%}' for e, share in tops[layer])
      for tops in experts.values()
    ]
    lines.append([str(first_layer + layer), *cells])
  return [
    '',
    'Experts that each domain uses most (expert:share of its assignments):',
    *columns.aligned(lines),
  ]
