"""What a run reached, at its end: a table, who uses which experts, samples.

Kept as `report.json` in the workdir, whose presence says that the run is
finished.
"""

import json
import math
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from moejax.cli.screen import Screen
from moejax.core import files
from moejax.data.build import Data
from moejax.evals import generate, perplexity
from moejax.evals.batches import eval_batches
from moejax.model.build import Model

REPORT = 'report.json'
PROMPTS = ('In the beginning', 'The United States', 'def main(')
SAMPLE = generate.Sampling(temperature=0.7, top_p=0.9)
SAMPLE_TOKENS = 60
TOP_EXPERTS = 2


def read(folder: pathlib.Path) -> dict[str, Any] | None:
  """The report of a finished run, or None."""
  path = folder / REPORT
  return json.loads(path.read_text()) if path.exists() else None


def write(found: dict[str, Any], folder: pathlib.Path) -> None:
  """Marks the run as finished."""
  files.atomic_write_json(folder / REPORT, found)


def make(
  model: Model, weights: Any, data: Data, folder: pathlib.Path, screen: Screen
) -> dict[str, Any]:
  """Scores every validation set in full, and generates samples."""
  step = perplexity.make_step(model)
  domains, counts = {}, {}
  for name, cache in data.validation.items():
    screen.line(f'Evaluating on {name} ({cache.num_tokens} tokens) ...')
    score = perplexity.evaluate(step, weights, eval_batches(model, cache, 0))
    domains[name] = {
      'loss': score.loss,
      'perplexity': score.perplexity,
      'accuracy': score.accuracy,
      'tokens': score.tokens,
      **_bits(score, data, name),
    }
    if score.count_NE is not None:
      counts[name] = score.count_NE
  samples = _samples(model, weights, data) if data.vocab is not None else []
  return {
    'workdir': str(folder),
    'domains': domains,
    'experts': {name: _top_experts(c) for name, c in counts.items()},
    'samples': samples,
  }


def _bits(score: perplexity.Score, data: Data, name: str) -> dict[str, float]:
  """Bits per byte of the model and of two baselines, where there is text."""
  cache = data.validation[name]
  if not cache.num_bytes:
    return {}
  found = {'bits_per_byte': score.bits_per_byte(cache.num_bytes)}
  base = data.baselines(name)
  if base is not None:
    found['unigram'] = base.unigram_bits_per_byte
    found['xz'] = base.xz_bits_per_byte
  return found


def _top_experts(count_NE: np.ndarray) -> list[list[tuple[int, float]]]:
  """By layer, the experts most used and their share of the assignments."""
  share_NE = count_NE / np.maximum(count_NE.sum(axis=1, keepdims=True), 1)
  order_NE = np.argsort(-share_NE, axis=1, kind='stable')[:, :TOP_EXPERTS]
  return [
    [(int(e), float(share_NE[layer, e])) for e in order]
    for layer, order in enumerate(order_NE)
  ]


def _samples(model: Model, weights: Any, data: Data) -> list[dict[str, str]]:
  length = min(model.config.max_length, data.length)
  prompts = [data.vocab.encode(text) for text in PROMPTS]
  tokens = min(SAMPLE_TOKENS, length - max(map(len, prompts)) - 1)
  if tokens < 1:
    return []
  out = generate.generate(
    model,
    weights,
    prompts,
    SAMPLE,
    max_new_tokens=tokens,
    eos_id=data.vocab.eos_id,
    seed=0,
  )
  return [
    {'prompt': prompt, 'text': data.vocab.decode([*ids, *new])}
    for prompt, ids, new in zip(PROMPTS, prompts, out, strict=True)
  ]


def show(found: dict[str, Any], screen: Screen) -> None:
  """Prints the report."""
  screen.line('')
  for line in _score_lines(found['domains']):
    screen.line(line)
  for line in _expert_lines(found['experts']):
    screen.line(line)
  for number, sample in enumerate(found['samples'], 1):
    screen.line('')
    screen.line(f'Sample {number}, prompt {sample["prompt"]!r}:')
    for line in sample['text'].splitlines():
      screen.line(f'  {line}')
  folder = found['workdir']
  screen.line('')
  screen.line(
    f'The run is in {folder}: metrics.jsonl, tensorboard/, checkpoints/.'
  )
  screen.line('Next:')
  screen.line(
    f"  python -m moejax.cli.generate --workdir={folder} --prompt='In the'"
  )
  screen.line(f'  tensorboard --logdir={folder}/tensorboard')
  screen.line(
    '  python -m moejax.main --config=configs/tiny.py --workdir=runs/mine '
    "--config.data.files='/my/texts/*.txt'"
  )


def _score_lines(domains: dict[str, dict[str, float]]) -> list[str]:
  if not domains:
    return ['There is no validation text.']
  names = [*domains, 'all']
  rows = {**domains, 'all': _mean(list(domains.values()))}
  with_bits = all('unigram' in row for row in domains.values())
  head = ['validation', 'loss', 'perplexity']
  if with_bits:
    head += ['bits/byte', 'unigram', 'xz -9']
  lines = [head]
  for name in names:
    row = rows[name]
    line = [name, f'{row["loss"]:.3f}', f'{row["perplexity"]:.1f}']
    if with_bits:
      line += [f'{row[k]:.3f}' for k in ('bits_per_byte', 'unigram', 'xz')]
    lines.append(line)
  text = _columns(lines)
  if with_bits:
    text.append('(unigram and xz -9 in bits per byte of the same text)')
  return text


def _mean(rows: list[dict[str, float]]) -> dict[str, float]:
  """The mean over domains, each counted once; perplexity of the mean loss."""
  keys = set.intersection(*(set(row) for row in rows))
  found = {k: float(np.mean([row[k] for row in rows])) for k in keys}
  found['perplexity'] = math.exp(min(found['loss'], 700.0))
  return found


def _expert_lines(experts: dict[str, Any]) -> list[str]:
  if not experts:
    return []
  num_layers = len(next(iter(experts.values())))
  lines = [['layer', *experts]]
  for layer in range(num_layers):
    cells = [
      ' '.join(f'{e}:{share:.0%}' for e, share in tops[layer])
      for tops in experts.values()
    ]
    lines.append([str(layer + 1), *cells])
  return [
    '',
    'Experts that each domain uses most (expert:share of its assignments):',
    *_columns(lines),
  ]


def _columns(rows: Sequence[Sequence[str]]) -> list[str]:
  """Rows of cells as aligned lines; the first column is flush left."""
  widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
  lines = []
  for row in rows:
    cells = [row[0].ljust(widths[0])]
    cells += [c.rjust(w) for c, w in zip(row[1:], widths[1:], strict=True)]
    lines.append('  '.join(cells).rstrip())
  return lines
