"""Papers by their number in arXiv."""

import functools
import pathlib
import re

TITLES = pathlib.Path(__file__).parent / 'titles.tsv'
NUMBER = re.compile(r'\b\d{4}\.\d{5}\b')
# Code and links, in which a number stays as it is, or a number.
_PART = re.compile(
  r'(`+)(?!`).*?(?<!`)\1(?!`)|\[[^\]]*\]\([^)]*\)|\b\d{4}\.\d{5}\b',
  re.DOTALL,
)


@functools.cache
def titles() -> dict[str, str]:
  """Number in arXiv -> title."""
  lines = TITLES.read_text(encoding='utf-8').splitlines()
  return dict(line.split('\t') for line in lines)


def linked(text: str) -> str:
  """Markdown in which the numbers of known papers are links to arXiv.

  Example: 'arXiv 2405.04434' gives
  'arXiv [2405.04434](https://arxiv.org/abs/2405.04434)'.
  """

  def link(found: re.Match[str]) -> str:
    number = found[0]
    if number not in titles():
      return number
    return f'[{number}](https://arxiv.org/abs/{number})'

  return _PART.sub(link, text)
