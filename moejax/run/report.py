"""What a run reached, at its end: a table, who uses which experts, samples.

Kept as `report.json` in the workdir, whose presence says that the run is
finished.
"""

import json
import math
import shlex
from typing import Any

import numpy as np
from etils import epath

from moejax.config import kept_tokenizer
from moejax.convert import companions
from moejax.core import columns, files
from moejax.data.build import Data
from moejax.evals import generate, perplexity, settings
from moejax.evals.batches import eval_batches, num_eval_batches
from moejax.run.context import Context
from moejax.run.screen import Screen

REPORT = 'report.json'
PROMPTS = ('In the beginning', 'The United States', 'def main(')
SAMPLE_TOKENS = 60
TOP_EXPERTS = 2
BITS = {'bits_per_byte': 'bits/byte', 'unigram': 'unigram', 'xz': 'xz -9'}


def read(folder: epath.Path) -> dict[str, Any] | None:
  """The report of a finished run, or None."""
  path = folder / REPORT
  if not path.exists():
    return None
  # The folder may have been moved or copied since.
  return {**json.loads(path.read_text()), 'workdir': str(folder)}


def write(found: dict[str, Any], folder: epath.Path) -> None:
  """Marks the run as finished."""
  files.atomic_write_json(folder / REPORT, found)


def remove(folder: epath.Path) -> None:
  """Marks the run as not finished: there is more to be done."""
  (folder / REPORT).unlink(missing_ok=True)


def make(
  context: Context, weights: Any, folder: epath.Path, screen: Screen
) -> dict[str, Any]:
  """Scores every validation set, and generates samples; see ReportConfig."""
  model, data, wanted = context.model, context.data, context.run.report
  step = perplexity.make_step(model)
  if data.vocab is not None and not wanted.eval_batches:
    screen.line('Compressing the text with xz -9 (once), to compare with ...')
    work = lambda: [data.baselines(name) for name in data.validation]
    context.processes.group.main_first('baselines', work)
  domains, counts = {}, {}
  for name, reader in data.validation.items():
    limit = wanted.eval_batches
    part = f'up to {limit} batches of its ' if limit else ''
    screen.line(f'Evaluating on {name} ({part}{reader.num_tokens} tokens) ...')
    batches = screen.track(
      eval_batches(model, reader, limit),
      f'Evaluating on {name}',
      num_eval_batches(model, reader, limit),
    )
    score = perplexity.evaluate(step, weights, batches)
    domains[name] = {
      'loss': score.loss,
      'perplexity': score.perplexity,
      'accuracy': score.accuracy,
      'tokens': score.tokens,
      **_bits(score, data, name, with_baselines=not wanted.eval_batches),
    }
    if score.count_NE is not None:
      counts[name] = score.count_NE
  return {
    'workdir': str(folder),
    'first_layer': context.run.model.num_dense,
    'domains': domains,
    'experts': {name: _top_experts(c) for name, c in counts.items()},
    'samples': _samples(context, weights, folder) if wanted.samples else [],
  }


def _bits(
  score: perplexity.Score, data: Data, name: str, *, with_baselines: bool
) -> dict[str, Any]:
  """Bits per byte of the model and of two baselines; None without text.

  Of a part of the rows the bytes are not known: they are taken to have as many
  for each token as the whole has.
  """
  reader = data.validation[name]
  found = dict.fromkeys(BITS)
  if not reader.num_bytes:
    return found
  num_bytes = reader.num_bytes * score.tokens / reader.num_tokens
  found['bits_per_byte'] = score.bits_per_byte(num_bytes)
  plain = data.baselines(name) if with_baselines else None
  if plain is None:
    return found
  xz = plain.xz_bits_per_byte
  return found | {
    'unigram': plain.unigram_bits_per_byte,
    'xz': None if math.isnan(xz) else xz,
  }


def _top_experts(count_NE: np.ndarray) -> list[list[tuple[int, float]]]:
  """By layer, the experts most used and their share of the assignments."""
  share_NE = count_NE / np.maximum(count_NE.sum(axis=1, keepdims=True), 1)
  order_NE = np.argsort(-share_NE, axis=1, kind='stable')[:, :TOP_EXPERTS]
  return [
    [(int(e), float(share_NE[layer, e])) for e in order]
    for layer, order in enumerate(order_NE)
  ]


def _samples(
  context: Context, weights: Any, folder: epath.Path
) -> list[dict[str, str]]:
  """Continuations of a few prompts; none where there was no text."""
  vocab = context.data.vocab
  if vocab is None:
    return []
  prompts = [vocab.encode(text) for text in PROMPTS]
  # Beyond the length that it was trained on a model has seen no positions.
  length = context.data.length
  longest = max(map(len, prompts)) + len(vocab.start)
  tokens = min(SAMPLE_TOKENS, length - longest)
  if tokens < 1:
    return []
  place = kept_tokenizer.folder(vocab, folder)
  out = generate.generate(
    context.model,
    weights,
    prompts,
    settings.usual(place),
    max_new_tokens=tokens,
    end_ids=companions.end_ids(place, vocab),
    seed=context.run.seed,
    start=vocab.start,
  )
  return [
    {'prompt': prompt, 'text': vocab.decode([*ids, *new])}
    for prompt, ids, new in zip(PROMPTS, prompts, out, strict=True)
  ]


def show(found: dict[str, Any], screen: Screen) -> None:
  """Prints the report."""
  screen.line('')
  for line in _score_lines(found['domains']):
    screen.line(line)
  for line in _expert_lines(found['experts'], found['first_layer']):
    screen.line(line)
  for number, sample in enumerate(found['samples'], 1):
    screen.line('')
    screen.line(f'Sample {number}, prompt {sample["prompt"]!r}:')
    for line in sample['text'].splitlines():
      screen.line(f'  {line}')
  if line := _best_line(found):
    screen.line('')
    screen.line(line)
  folder = found['workdir']
  screen.line('')
  screen.line(
    f'The run is in {folder}: metrics.jsonl, tensorboard/, checkpoints/.'
  )
  screen.line('Next:')
  quoted = shlex.quote(folder)
  screen.command(
    f"python -m moejax.cli.generate --workdir={quoted} --prompt='In the'"
  )
  screen.command(f'tensorboard --logdir={quoted}/tensorboard')
  screen.command(
    'python -m moejax.main --config=configs/tiny.py --workdir=runs/mine '
    "--config.data.files='/my/texts/*.txt'"
  )


def _best_line(found: dict[str, Any]) -> str:
  """Where an earlier checkpoint was better than the last; '' if none was."""
  best = found.get('best')
  if best is None or best[0] == found['steps']:
    return ''
  step, loss = best
  return (
    f'The lowest loss of an evaluation in training was {loss:.3f}, at step '
    f'{step}: --step=best takes that checkpoint.'
  )


def _score_lines(domains: dict[str, dict[str, Any]]) -> list[str]:
  # Bytes are known of text alone, baselines of whole validation sets alone.
  shown = [
    k for k in BITS if any(row[k] is not None for row in domains.values())
  ]
  head = [BITS[key] for key in shown]
  lines = [['validation', 'loss', 'perplexity', *head]]
  for name, row in {**domains, 'mean': _mean([*domains.values()])}.items():
    bits = [row[key] for key in shown]
    cells = ['-' if x is None else f'{x:.3f}' for x in bits]
    lines.append([
      name,
      f'{row["loss"]:.3f}',
      f'{row["perplexity"]:.1f}',
      *cells,
    ])
  table = columns.aligned(lines)
  if len(shown) < len(BITS):
    return table
  return [
    *table,
    '(the last three in bits per byte of the same text; unigram: token',
    'frequencies of the training text; xz -9: what it adds to that text)',
  ]


def _mean(rows: list[dict[str, Any]]) -> dict[str, Any]:
  """The mean over domains, each counted once; perplexity of the mean loss."""
  found = {}
  for key in rows[0]:
    values = [row[key] for row in rows]
    found[key] = None if None in values else float(np.mean(values))
  loss = float(np.mean([row['loss'] for row in rows]))
  found['perplexity'] = math.exp(min(loss, 700.0))
  return found


def _expert_lines(experts: dict[str, Any], first_layer: int) -> list[str]:
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
