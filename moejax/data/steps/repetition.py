"""Removes documents that repeat themselves."""

import collections
import dataclasses
import re
from collections.abc import Iterator, Sequence

import numpy as np

from moejax.core import errors, fields
from moejax.data.steps import base

TOP = range(
  2, 5
)  # words of the n-grams of which the most frequent is looked at
ALL = range(5, 11)  # words of those that are looked at together


def _shares(default: tuple[float, ...]) -> tuple[float, ...]:
  return fields.number(default, at_least=0, at_most=1)


@dataclasses.dataclass(frozen=True)
class Repetition(base.Filter):
  """The repetition rules of Gopher.

  Source: Rae et al., 2021 (arXiv 2112.11446), appendix A1.1, table A1, whose
  values the defaults are. A repetition is an occurrence after the first. A line
  is one that is not blank; blank lines end a paragraph. N-grams are of words;
  shares of characters in n-grams count no character twice, and no whitespace.

  Attributes:
    max_lines: largest share of lines that are repetitions.
    max_paragraphs: largest share of paragraphs that are repetitions.
    max_line_characters: largest share of characters in repeated lines.
    max_paragraph_characters: the same in repeated paragraphs.
    max_top_ngram: largest share of characters in all occurrences of the most
      frequent n-gram, if it occurs more than once; for n = 2, 3, 4.
    max_ngrams: largest share of characters in repetitions of n-grams; for n =
      5 to 10.
  """

  max_lines: float = fields.number(0.3, at_least=0, at_most=1)
  max_paragraphs: float = fields.number(0.3, at_least=0, at_most=1)
  max_line_characters: float = fields.number(0.2, at_least=0, at_most=1)
  max_paragraph_characters: float = fields.number(0.2, at_least=0, at_most=1)
  max_top_ngram: tuple[float, ...] = _shares((0.2, 0.18, 0.16))
  max_ngrams: tuple[float, ...] = _shares((0.15, 0.14, 0.13, 0.12, 0.11, 0.1))

  def __post_init__(self):
    super().__post_init__()
    for name, sizes in (('max_top_ngram', TOP), ('max_ngrams', ALL)):
      if len(getattr(self, name)) != len(sizes):
        raise errors.InputError(
          f'{name}={getattr(self, name)}: one share for each n from {sizes[0]} '
          f'to {sizes[-1]}, so {len(sizes)} in all'
        )

  def examine(self, text: str) -> str:
    """The first rule, in the order of the keys, that the document breaks."""
    lines = _stripped(text.splitlines())
    paragraphs = _stripped(re.split(r'\n\s*\n', text))
    line_share, line_characters = repeated(lines)
    paragraph_share, paragraph_characters = repeated(paragraphs)
    for rule, share in (
      ('max_lines', line_share),
      ('max_paragraphs', paragraph_share),
      ('max_line_characters', line_characters),
      ('max_paragraph_characters', paragraph_characters),
    ):
      if share > getattr(self, rule):
        return rule
    bounds = dict(
      zip((*TOP, *ALL), self.max_top_ngram + self.max_ngrams, strict=True)
    )
    for n, share in ngram_shares(text.split()):
      if share > bounds[n]:
        return f'max_top_ngram of {n}' if n in TOP else f'max_ngrams of {n}'
    return ''


def _stripped(parts: Sequence[str]) -> list[str]:
  return [part.strip() for part in parts if part.strip()]


def repeated(parts: Sequence[str]) -> tuple[float, float]:
  """The share of parts that came before, and of their characters.

  Example:
    ['ab', 'c', 'ab']  (1 / 3, 2 / 5)
  """
  counts = collections.Counter(parts)
  characters = sum(map(len, parts))
  again = sum((count - 1) * len(part) for part, count in counts.items())
  return (
    (len(parts) - len(counts)) / max(1, len(parts)),
    again / max(1, characters),
  )


def ngram_shares(words: Sequence[str]) -> Iterator[tuple[int, float]]:
  """The share of characters that `Repetition` bounds, for each n.

  Every n-gram gets a number, equal n-grams the same: that of n words follows
  from that of n - 1 words and the last word. So it takes time N log N for each
  n, however long the n-grams are.

  Example, n=2:
    a b c a b d a b  'a b' occurs three times: 6 of 8 characters
  """
  ids: dict[str, int] = {}
  word_T = np.array([ids.setdefault(word, len(ids)) for word in words], int)
  size_T = np.array([len(word) for word in words], int)
  total = int(size_T.sum())
  gram_T = word_T
  for n in range(2, ALL[-1] + 1):
    if len(words) < n:
      return
    pair_T = gram_T[:-1] * len(ids) + word_T[n - 1 :]
    _, first_G, gram_T, count_G = np.unique(
      pair_T, return_index=True, return_inverse=True, return_counts=True
    )
    if n in TOP:
      most_G = count_G == np.max(count_G)
      # Of several most frequent ones the one that comes first.
      top = np.flatnonzero(most_G)[np.argmin(first_G[most_G])]
      counts_T = (gram_T == top) & (count_G[top] > 1)
    else:
      counts_T = first_G[gram_T] != np.arange(len(gram_T))
    yield n, float(size_T[_covered(counts_T, n)].sum() / max(1, total))


def _covered(starts_T: np.ndarray, n: int) -> np.ndarray:
  """The words that lie in an n-gram which begins at a marked place."""
  change = np.zeros(len(starts_T) + n, int)
  change[: len(starts_T)] += starts_T
  change[n:] -= starts_T
  return np.cumsum(change)[:-1] > 0
