"""Tables and figure of study 5, from what its sweeps measured."""

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from moejax.research import comparison, figures, page
from moejax.run.compression_sweep import FULL, name_of

# arXiv 2504.06792, Table 1: mean score of DeepSeek-R1 with 128 of 256 experts;
# the full model has 67.20. Best first.
PUBLISHED = {
  'easy_ep': 66.55,
  'gate_score': 56.49,
  'frequency': 31.59,
  'm_smoe': 22.10,
  'random': 17.44,
}
# Its ablation: AIME 2024 with 64 experts.
ABLATION = {
  'easy_ep': 72.81,
  'easy_ep_no_token': 65.33,
  'easy_ep_no_norm': 70.0,
  'gate_score': 2.67,
}
DRAWN = ('easy_ep', 'gate_score', 'frequency', 'random', 'm_smoe', 'm_smoe_cut')

Measured = Mapping[str, Any]
Rises = Mapping[str, Mapping[int, Sequence[float]]]


def mean_loss(scores: Mapping[str, Any]) -> float:
  """The mean loss over validation sets of one model."""
  return statistics.fmean(one['loss'] for one in scores['sets'].values())


def rise(measured: Measured, name: str) -> float:
  """How much the mean loss of a model is above that of the full model."""
  return mean_loss(measured[name]) - mean_loss(measured[FULL])


def losses(measured: Measured, method: str, keep: int) -> dict[str, float]:
  """The rise of the loss on each validation set."""
  own = measured[name_of(method, keep)]['sets']
  full = measured[FULL]['sets']
  return {name: own[name]['loss'] - full[name]['loss'] for name in full}


def overlap(
  one: Sequence[Sequence[int]], other: Sequence[Sequence[int]]
) -> float:
  """The share of the chosen experts that both have, the mean over layers."""
  shares = [
    len({*a} & {*b}) / max(len(a), len(b))
    for a, b in zip(one, other, strict=True)
  ]
  return statistics.fmean(shares)


def method_rows(rises: Rises, keeps: Sequence[int]) -> list[list[str]]:
  """A row for each method: the rise of the mean loss by experts kept."""
  head = ['method', *(f'{keep} experts' for keep in keeps), 'paper']
  rows = [
    [
      name,
      *(comparison.cell(by_keep[keep]) for keep in keeps),
      page.number(PUBLISHED.get(name), 2),
    ]
    for name, by_keep in rises.items()
  ]
  return [head, *rows]


def ablation_rows(rises: Rises, keeps: Sequence[int]) -> list[list[str]]:
  """EASY-EP with and without its factors, beside the paper's scores."""
  head = ['method', *(f'{keep} experts' for keep in keeps), 'paper']
  rows = [
    [
      name,
      *(comparison.cell(rises[name][keep]) for keep in keeps),
      page.number(published, 2),
    ]
    for name, published in ABLATION.items()
    if name in rises
  ]
  return [head, *rows]


def domain_rows(
  texts: Sequence[Mapping[str, Mapping[str, float]]],
) -> list[list[str]]:
  """Rises by the text of the calibration and by that of the evaluation.

  Args:
    texts: of each run, by the domain of the calibration, the rise on each.
  """
  if not texts:
    return [['calibrated on']]
  domains = [*next(iter(texts[0].values()))]
  head = ['calibrated on', *domains]
  rows = [
    [
      name,
      *(
        comparison.cell([one[name][domain] for one in texts])
        for domain in domains
      ),
    ]
    for name in texts[0]
  ]
  return [head, *rows]


def token_rows(counts: Sequence[Mapping[int, Any]]) -> list[list[str]]:
  """Rise and overlap by the amount of text.

  Args:
    counts: of each run, by number, `rise` and `overlap`.
  """
  head = ['tokens of each domain', 'same experts as with the most', 'rise']
  if not counts:
    return [head]
  rows = [
    [
      str(number),
      page.percent(statistics.fmean(one[number]['overlap'] for one in counts)),
      comparison.cell([one[number]['rise'] for one in counts]),
    ]
    for number in counts[0]
  ]
  return [head, *rows]


def recovery_rows(
  recovered: Mapping[str, Mapping[str, Sequence[float]]],
) -> list[list[str]]:
  """Rises before and after more training.

  Args:
    recovered: by method, `before`, `text` and `teacher`, a number for each run.
  """
  head = ['method', 'before', 'after, text alone', 'after, with a teacher']
  rows = [
    [
      name,
      *(comparison.cell(rows[kind]) for kind in ('before', 'text', 'teacher')),
    ]
    for name, rows in recovered.items()
  ]
  return [head, *rows]


def draw(swept: Sequence[Measured]) -> Any:
  """Mean loss over the experts kept, and the loss of each domain."""
  if not swept:
    return None
  sets = [*swept[0][FULL]['sets']]
  whole, panels = figures.figure(len(sets))
  for panel, on in zip(panels, sets, strict=True):
    for name, colour in zip(DRAWN, figures.COLOURS, strict=False):
      keeps = sorted({
        one['keep'] for one in swept[0].values() if one.get('method') == name
      })
      by_run = [
        [one[name_of(name, keep)]['sets'][on]['loss'] for keep in keeps]
        for one in swept
      ]
      if keeps:
        figures.line(panel, keeps, by_run, name, colour)
    full = statistics.fmean(one[FULL]['sets'][on]['loss'] for one in swept)
    panel.axhline(full, color='0.4', linestyle='--', linewidth=0.8)
    panel.set_title(on)
    panel.set_xlabel('experts of a layer')
  panels[0].set_ylabel('loss (nats per token)')
  panels[0].legend(fontsize='small')
  return whole
