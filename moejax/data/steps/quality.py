"""Removes documents that are not running text, by rules for any language."""

import dataclasses

from moejax.core import fields
from moejax.data.steps import base

BULLETS = ('•', '‣', '◦', '-', '*')
ELLIPSES = ('...', '…')


@dataclasses.dataclass(frozen=True)
class Quality(base.Filter):
  """The quality rules of Gopher, but for its list of English words.

  Source: Rae et al., 2021 (arXiv 2112.11446), appendix A1.1, whose values the
  defaults are. A word is what stands between whitespace; in a language without
  spaces the bounds on words need other values. A line is one that is not blank.

  Attributes:
    min_words: least number of words.
    max_words: largest number of words.
    min_word_length: least mean length of a word, in characters.
    max_word_length: largest mean length of a word.
    max_symbol_ratio: most hash signs per word, and most ellipses per word.
    max_bullet_lines: largest share of lines that begin with a bullet.
    max_ellipsis_lines: largest share of lines that end in an ellipsis.
    min_words_with_letter: least share of words with a letter of any alphabet.
    min_letters: least share of letters among the characters that are not
      whitespace. Not in the paper.
    max_digits: largest share of digits among them. Not in the paper.
  """

  min_words: int = fields.number(50, at_least=0)
  max_words: int = fields.number(100_000, at_least=0)
  min_word_length: float = fields.number(3.0, at_least=0)
  max_word_length: float = fields.number(10.0, at_least=0)
  max_symbol_ratio: float = fields.number(0.1, at_least=0)
  max_bullet_lines: float = fields.number(0.9, at_least=0, at_most=1)
  max_ellipsis_lines: float = fields.number(0.3, at_least=0, at_most=1)
  min_words_with_letter: float = fields.number(0.8, at_least=0, at_most=1)
  min_letters: float = fields.number(0.0, at_least=0, at_most=1, note='0: any')
  max_digits: float = fields.number(1.0, at_least=0, at_most=1, note='1: any')

  def __post_init__(self):
    super().__post_init__()
    for name in ('words', 'word_length'):
      low, high = f'min_{name}', f'max_{name}'
      base.need_order(
        'quality', (low, getattr(self, low)), (high, getattr(self, high))
      )

  def examine(self, text: str) -> str:
    """The first rule, in the order of the keys, that the document breaks."""
    words = text.split()
    if len(words) < self.min_words:
      return 'min_words'
    if len(words) > self.max_words:
      return 'max_words'
    measures = measure(text, words)
    for rule, value in measures.items():
      kind, _, name = rule.partition('_')
      bound = getattr(self, rule)
      if value < bound if kind == 'min' else value > bound:
        return rule
    return ''


def measure(text: str, words: list[str]) -> dict[str, float]:
  """The measures of a document, by the keys of their bounds.

  Args:
    text: the document.
    words: `text.split()`.
  """
  lines = [line.strip() for line in text.splitlines() if line.strip()]
  characters = sum(map(len, words))
  word_length = characters / max(1, len(words))
  ellipses = sum(map(text.count, ELLIPSES))
  bullets = sum(line.startswith(BULLETS) for line in lines)
  open_lines = sum(line.endswith(ELLIPSES) for line in lines)
  with_letter = sum(any(map(str.isalpha, word)) for word in words)
  return {
    'min_word_length': word_length,
    'max_word_length': word_length,
    'max_symbol_ratio': max(text.count('#'), ellipses) / max(1, len(words)),
    'max_bullet_lines': bullets / max(1, len(lines)),
    'max_ellipsis_lines': open_lines / max(1, len(lines)),
    'min_words_with_letter': with_letter / max(1, len(words)),
    'min_letters': sum(map(str.isalpha, text)) / max(1, characters),
    'max_digits': sum(map(str.isdigit, text)) / max(1, characters),
  }
