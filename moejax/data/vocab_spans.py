"""Places of parts of a text among its token ids."""

from collections.abc import Callable, Sequence

import numpy as np

Span = tuple[int, int]


def by_offsets(offsets: Sequence[Span], spans: Sequence[Span]) -> list[Span]:
  """Places among the ids, from the characters of each id.

  As in transformers, an id that has some characters of a part belongs to the
  part, even if merges have joined them with characters around it.

  Example, ids of 'Hi', ' there' and '!':
    offsets  (0, 2), (2, 8), (8, 9)
    span     (3, 9)
    place    (1, 3)

  Args:
    offsets: (start, end) of each id, in characters.
    spans: (start, end) of parts of the text.
  """
  start_T, end_T = np.array(offsets, int).reshape(-1, 2).T
  places = []
  for start, end in spans:
    (inside,) = np.nonzero((end_T > start) & (start_T < end))
    if len(inside):
      places.append((int(inside[0]), int(inside[-1]) + 1))
    else:
      at = int(np.sum(end_T <= start))
      places.append((at, at))
  return places


def by_parts(
  texts: Sequence[str],
  spans: Sequence[Sequence[Span]],
  encode: Callable[[str, bool], list[int]],
) -> list[tuple[list[int], list[Span]]]:
  """The ids of texts that are cut where parts begin and end.

  For tokenizers that do not say which characters an id has. No id reaches over
  the border of a part.

  Args:
    texts: the texts.
    spans: of each text (start, end) of its parts, in their order, which do not
      overlap.
    encode: (text, whether it begins a text) to its ids.

  Returns:
    Of each text the ids, and (start, end) of its parts among them.
  """
  result = []
  for text, wanted in zip(texts, spans, strict=True):
    ids: list[int] = []
    places, at = [], 0
    for start, end in wanted:
      if at < start:
        ids += encode(text[at:start], at == 0)
      before = len(ids)
      ids += encode(text[start:end], start == 0)
      places.append((before, len(ids)))
      at = end
    if at < len(text):
      ids += encode(text[at:], at == 0)
    result.append((ids, places))
  return result
