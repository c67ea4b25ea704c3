"""The section of the tokens of an expert, to browse."""

from collections.abc import Mapping, Sequence
from typing import Any

from moejax.page import figures
from moejax.page.data import PageData
from moejax.page.markup import Html
from moejax.page.section import Section
from moejax.page.sections import load

MOST_TOKENS = 12_000  # of all experts and layers
HEAD = ('Token', 'Choices', 'Share of its occurrences', 'Times the mean')


def vocabulary(data: PageData) -> Html | None:
  """A table of tokens for each expert, by layer and expert."""
  rows = data.measures.get('vocabulary')
  if not rows or not data.words:
    return None
  by_layer: dict[int, list[Mapping[str, Any]]] = {}
  for row in rows.values():
    by_layer.setdefault(row['layer'], []).append(row)
  layers = kept(by_layer)
  value = {
    'layers': layers,
    'head': HEAD,
    'tables': [
      {
        row['expert']: table(row['tokens'], data.words)
        for row in by_layer[layer]
      }
      for layer in layers
    ],
  }
  return figures.widget(
    'vocabulary-table',
    'Tokens of an expert',
    'vocabulary',
    value,
    'Tokens of the validation text that choose the expert at least twice as '
    'often as the mean token does, and at least ten times.',
  )


def kept(by_layer: Mapping[int, Sequence[Mapping[str, Any]]]) -> list[int]:
  """The layers that are shown: all, unless they have too many tokens."""
  layers = sorted(by_layer)
  tokens = sum(len(row['tokens']) for rows in by_layer.values() for row in rows)
  most = max(1, len(layers) * MOST_TOKENS // max(1, tokens))
  return [layers[i] for i in load.spread(len(layers), max(2, most))]


def table(
  tokens: Sequence[Sequence[float]], words: Mapping[int, str]
) -> list[list[Any]]:
  """The rows of an expert's tokens, with texts for ids."""
  return [
    [words.get(int(i), f'id {i}'), count, share, lift]
    for i, count, share, lift in tokens
  ]


SECTION = Section(
  'Tokens of experts',
  vocabulary,
  'a trace of text: report.trace_tokens, or moejax trace',
)
