"""Text broken into lines of the width of a terminal."""

import re
import textwrap


def wrapped(line: str, width: int) -> list[str]:
  """Breaks a line between words, so that the terminal does not break a word.

  A word that is wider than the terminal, such as a path, stays whole. All lines
  have the indent of the first.

  Example, width 12:
    '  one two three'     ['  one two', '  three']
  """
  indent = line[: len(line) - len(line.lstrip())]
  if len(indent) >= width:
    indent = ''
  return textwrap.wrap(
    line,
    max(1, width),
    subsequent_indent=indent,
    break_long_words=False,
    break_on_hyphens=False,
  ) or ['']


def command(text: str, width: float) -> list[str]:
  r"""A shell command as indented lines; all but the last end in a backslash.

  Lines are broken between words; text in single quotes is one word.

  Example, width 30:
    python -m x --a=1 --b='c d'      `  python -m x --a=1 \`
                                     `    --b='c d'`
  """
  lines, line = [], '  '
  for word in re.findall(r"(?:[^\s']|'[^']*')+", text):
    longer = f'{line}{word}' if line.isspace() else f'{line} {word}'
    # Two columns are for the backslash.
    if line.isspace() or len(longer) + 2 <= width:
      line = longer
    else:
      lines.append(f'{line} \\')
      line = f'    {word}'
  return [*lines, line]
