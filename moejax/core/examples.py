r"""Examples in the docstring of a command, with which its help ends.

They are paragraphs that are indented by two spaces or more and have a command
of moejax in their first line:

  moejax count --config=tiny
  moejax plan --config=ds_16b --topology=v5p:4x4x4 \
    --search
"""

import inspect
import re

_COMMAND = re.compile(r'(?:^|\| |[A-Z_]=\S+ )(?:moejax|python -m [\w.]+) ')


def split(doc: str) -> tuple[str, str]:
  """A docstring without its first examples, and these examples.

  Only examples directly below the first line are taken out. Later ones belong
  to the text around them.

  Returns:
    The text, and the lines of the examples, '' if there are none.
  """
  first, *rest = _paragraphs(doc)
  if rest and _is_example(rest[0]):
    return '\n\n'.join([first, *rest[1:]]), rest[0]
  return '\n\n'.join([first, *rest]), ''


def commands(doc: str) -> list[str]:
  """All commands among the examples of a docstring, each as one line."""
  blocks = [block for block in _paragraphs(doc) if _is_example(block)]
  return [_joined(command) for block in blocks for command in _commands(block)]


def of_subcommand(examples: str, program: str) -> str:
  """The lines of the examples that run a subcommand.

  Args:
    examples: lines from `split`.
    program: such as 'moejax convert import'; its last two words are looked for.
  """
  words = ' '.join(program.split()[-2:])
  return '\n'.join(
    command
    for command in _commands(examples)
    if f' {words} ' in f' {_joined(command)} '
  )


def _paragraphs(doc: str) -> list[str]:
  return re.split(r'\n\n+', inspect.cleandoc(doc))


def _is_example(paragraph: str) -> bool:
  lines = paragraph.split('\n')
  indented = all(line.startswith('  ') for line in lines)
  return indented and _COMMAND.search(lines[0].strip()) is not None


def _commands(block: str) -> list[str]:
  """The commands of a block, with their continuation lines."""
  return re.split(r'\n(?=  \S)', block) if block else []


def _joined(command: str) -> str:
  return ' '.join(command.replace('\\\n', ' ').split())
