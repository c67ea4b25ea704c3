"""The section of text whose tokens have the colour of their expert."""

import base64
from collections.abc import Sequence
from typing import Any

import numpy as np

from moejax.analysis.trace import NOWHERE, Trace
from moejax.page import figures
from moejax.page.data import PageData, Picture
from moejax.page.markup import Html
from moejax.page.section import Section

MOST_NUMBERS = 160_000  # ids on the page; as many weights
MOST_TOKENS = 320  # of a document
NONE = 65535  # as uint16, the expert of a rank that has none
UNITS = 10_000  # of a weight: four decimals


def coloured(data: PageData) -> Html | None:
  """A few documents of each domain; None without a trace and its text."""
  trace = data.trace
  if trace is None or not len(data.texts) or not len(trace.token_T):
    return None
  chosen = documents(trace)
  tokens = np.concatenate([np.arange(begin, end) for _, begin, end in chosen])
  kept = trace.only(tokens)
  expert_TNK = kept.expert_TNK.astype(np.int64)
  value = {
    'layers': [*trace.layers],
    'k': trace.k,
    'texts': [data.texts[i] for i in tokens],
    'documents': moved(chosen),
    'pictures': shown(data.pictures, tokens),
    'experts': packed(np.where(expert_TNK == NOWHERE, NONE, expert_TNK)),
    'weights': packed(kept.weight_TNK * UNITS),
    'unit': 1 / UNITS,
    'entropy': packed(np.nan_to_num(kept.entropy_TN) * 1000),
  }
  return figures.widget(
    'text',
    'Text, each token in the colour of its expert',
    'text',
    value,
    f'Validation text at step {trace.step:,}. Choose a layer and a rank (1: '
    'the expert with the largest gate weight). Point at a token, or move with '
    'the arrow keys, for its experts and their weights; press an expert to see '
    'its tokens alone. · is a token without text, such as the start of a row; '
    'an image is a square of its patches.',
  )


def documents(trace: Trace) -> list[tuple[str, int, int]]:
  """(name, begin, end) in tokens of the documents that are shown.

  The first document of each domain, then the second, until the page has enough.
  """
  edges = np.flatnonzero(np.diff(trace.document_T)) + 1
  begins = [0, *edges.tolist()]
  ends = [*edges.tolist(), len(trace.document_T)]
  by_domain: dict[int, list[tuple[int, int]]] = {}
  for begin, end in zip(begins, ends, strict=True):
    domain = int(trace.domain_T[begin])
    spans = by_domain.setdefault(domain, [])
    spans.append((begin, min(end, begin + MOST_TOKENS)))
  left = max(1, MOST_NUMBERS // max(1, len(trace.layers) * trace.k))
  chosen: list[tuple[str, int, int]] = []
  for number in range(max(map(len, by_domain.values()))):
    for domain, spans in by_domain.items():
      if number < len(spans) and left > 0:
        begin, end = spans[number]
        end = min(end, begin + left)
        left -= end - begin
        name = f'{trace.domains[domain]}, document {number + 1}'
        chosen.append((name, begin, end))
  return sorted(chosen, key=lambda span: span[1])


def moved(chosen: list[tuple[str, int, int]]) -> list[dict[str, Any]]:
  """The documents with places counted over the tokens that are kept."""
  listed, place = [], 0
  for name, begin, end in chosen:
    listed.append({'name': name, 'begin': place, 'end': place + end - begin})
    place += end - begin
  return listed


def shown(
  pictures: Sequence[Picture], tokens: np.ndarray
) -> list[tuple[int, int, int]]:
  """(begin, end, columns) of the pictures that are kept whole.

  Args:
    pictures: with places in the trace.
    tokens: the tokens that are kept, ascending.
  """
  listed = []
  for begin, end, columns in pictures:
    first, last = np.searchsorted(tokens, [begin, end - 1])
    if last < len(tokens) and (tokens[[first, last]] == [begin, end - 1]).all():
      listed.append((int(first), int(last) + 1, columns))
  return listed


def packed(values: np.ndarray) -> str:
  """Numbers as base64 of little-endian uint16, rounded and clipped."""
  whole = np.clip(np.round(values), 0, 65535).astype('<u2')
  return base64.b64encode(whole.tobytes()).decode()


SECTION = Section(
  'Text by expert',
  coloured,
  'a trace of text: report.trace_tokens, or moejax trace',
)
