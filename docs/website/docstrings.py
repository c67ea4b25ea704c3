"""Docstrings in Google's style as Markdown."""

import re
import textwrap

from website import arxiv

# Headings of sections with entries, or of plain text.
_SECTIONS = {
  'Args',
  'Attributes',
  'Example',
  'Examples',
  'Raises',
  'Returns',
  'Yields',
}
_CODE = re.compile(r'(`+)(?!`)(.+?)(?<!`)\1(?!`)', re.DOTALL)
_ENTRY = re.compile(r'([*\w`][\w.,* /`\[\]-]*?): +(\S.*)', re.DOTALL)
_SPECIAL = re.compile(r'([\\*_\[\]<>{}|$~#])')
_ITEM = re.compile(r'- |\d+[.)] ')
# What would begin a list or underline a heading at the start of a line.
_START = re.compile(r'^(\s*)([+=])', re.MULTILINE)


def markdown(doc: str) -> str:
  """A docstring, without its indentation, as Markdown.

  Paragraphs stay paragraphs and lists lists, indented text becomes a block of
  code, and the entries of `Args` and its like become a list.

  Args:
    doc: as `ast.get_docstring` returns it.
  """
  parts = []
  for heading, body in _sections(doc):
    if heading:
      parts.append(f'**{heading}**')
    if heading in {'Args', 'Attributes', 'Raises'}:
      parts.append(_entries(body))
    else:
      parts.append(_blocks(body))
  return '\n\n'.join(filter(None, parts))


def escaped(text: str) -> str:
  r"""Plain text in which Markdown finds nothing to format but code.

  Example: 'x_TD of `a*b` [0]' gives 'x\_TD of `a*b` \[0\]'.
  """
  parts, end = [], 0
  for found in _CODE.finditer(text):
    parts += [_plain(text[end : found.start()]), found[0]]
    end = found.end()
  return ''.join([*parts, _plain(text[end:])])


def _plain(text: str) -> str:
  return _SPECIAL.sub(r'\\\1', text).replace('`', '\\`')


def _sections(doc: str) -> list[tuple[str, str]]:
  """(heading, body without its indentation); '' heads what comes first."""
  sections: list[tuple[str, list[str]]] = [('', [])]
  for line in doc.splitlines():
    word = line.removesuffix(':')
    if line.endswith(':') and word in _SECTIONS:
      sections.append((word, []))
    elif sections[-1][0] and line and not line.startswith(' '):
      sections.append(('', [line]))  # text after a section
    else:
      sections[-1][1].append(line)
  return [
    (heading, textwrap.dedent('\n'.join(lines)).strip('\n'))
    for heading, lines in sections
  ]


def _entries(body: str) -> str:
  """`name: what it is`, with more lines indented, as a list."""
  items = []
  for entry in re.split(r'\n(?=\S)', body):
    first, _, rest = entry.partition('\n')
    text = f'{first}\n{textwrap.dedent(rest)}' if rest else first
    found = _ENTRY.fullmatch(text)
    if found is None:
      items.append(_blocks(text))
      continue
    names = ', '.join(
      f'`{name.strip().strip("`")}`' for name in found[1].split(',')
    )
    about = textwrap.indent(_blocks(found[2]), '  ').lstrip()
    items.append(f'- {names}: {about}')
  return '\n'.join(items)


def _blocks(body: str) -> str:
  """Paragraphs, lists and indented blocks."""
  blocks: list[str] = []
  for code, lines in _runs(body):
    text = textwrap.dedent('\n'.join(lines)).strip('\n')
    if code:
      kind = 'pycon' if text.startswith('>>> ') else 'text'
      fence = '`' * 3
      blocks.append(f'{fence}{kind}\n{text}\n{fence}')
    else:
      plain = _START.sub(r'\1\\\2', escaped(text))
      blocks.append(arxiv.linked(plain))
  return '\n\n'.join(blocks)


def _runs(body: str) -> list[tuple[bool, list[str]]]:
  """Runs of lines: whether they are a block of code, and the lines.

  Indented lines are code, unless they go on in a list. An empty line within
  code belongs to it.
  """
  runs: list[tuple[bool, list[str]]] = []
  in_list = False
  for line in body.splitlines():
    if not line.strip():
      if runs:
        runs[-1][1].append('')
      continue
    if line.startswith(' '):
      code = not in_list
    else:
      code, in_list = False, _ITEM.match(line) is not None
    if runs and runs[-1][0] == code:
      runs[-1][1].append(line)
    else:
      runs.append((code, [line]))
  return runs
