"""Runs `moejax COMMAND`, or shows help; what is imported is the command alone.

moejax                  lists all commands
moejax train --help     shows the help of one, as `moejax help train` does
moejax --version        prints the version
"""

import runpy
import shutil
import sys
import textwrap
from collections.abc import Sequence

from moejax import __version__, shell
from moejax.core import command, errors, exits, table, terminal
from moejax.shell import reference

HELP = ('--help', '-h')
INDENT = ' ' * 2
EXAMPLES = """\
  moejax train --config=tiny --workdir=runs/tiny
  moejax generate --workdir=runs/tiny --prompt='In the beginning'
  moejax doctor
  moejax help convert import"""
# Columns of the names in the list of commands.
NAMES = 18


def start() -> None:
  """Runs the words of this process: the command that they name, or help."""
  words = sys.argv[1:]
  if words and words[0] in reference.modules() and not _asks_help(words):
    _run(reference.modules()[words[0]], words[1:])
  else:
    exits.main(main, keeps=False)


def main(argv: Sequence[str]) -> None:
  """Shows the list of commands, the help of one, or the version.

  Args:
    argv: the words behind `moejax`, with or without --help.

  Raises:
    InputError: a word is no command.
  """
  words = list(argv)
  if words[:1] == ['help']:
    words = words[1:]
  if words == ['--version']:
    terminal.say(f'moejax {__version__}')
  elif not words or words[0] in HELP:
    terminal.say(listing(shutil.get_terminal_size().columns))
  elif words[0].startswith('-'):
    raise errors.InputError(
      f'{words[0]}: a command comes first, as in moejax train {words[0]}'
    )
  elif words[0] not in reference.modules():
    raise table.unknown('command', words[0], reference.modules())
  else:
    _show_help(words[0], words[1:])


def listing(width: int) -> str:
  """All commands by group, with a line on each.

  Args:
    width: columns of the terminal.
  """
  lines = [
    'moejax: Mixture-of-Experts language models in JAX.',
    '',
    'moejax COMMAND --help shows the flags and examples of a command.',
  ]
  for group, modules in shell.GROUPS.items():
    lines += ['', f'{group}:']
    for module in modules:
      name = f'{INDENT}{command.name_of(module)}'.ljust(NAMES)
      lines += textwrap.wrap(
        name + reference.summary(module),
        max(width, 2 * NAMES),
        subsequent_indent=' ' * NAMES,
        drop_whitespace=True,
      )
  return '\n'.join([*lines, '', 'examples:', EXAMPLES])


def _asks_help(words: Sequence[str]) -> bool:
  return any(word in HELP for word in words)


def _show_help(name: str, words: Sequence[str]) -> None:
  """Prints the help of a command, or of its subcommand."""
  subcommands = reference.of(name).subcommands
  named = [word for word in words if not word.startswith('-')][:1]
  if named and subcommands and named[0] not in subcommands:
    raise table.unknown(f'command of moejax {name}', named[0], subcommands)
  chosen = [word for word in named if word in subcommands]
  # argparse prints the help, and raises SystemExit(0).
  reference.parser(name).parse_args([*chosen, '--help'])


def _run(module: str, words: Sequence[str]) -> None:
  """Runs a module as `python -m` does; it ends the process."""
  sys.argv = [module, *words]
  try:
    runpy.run_module(module, run_name='__main__', alter_sys=True)
  except ImportError as e:
    ours = (e.name or '').partition('.')[0] == 'moejax'
    if ours or exits.TRACE in words:
      raise
    terminal.note(
      f'error: {e}; this installation of moejax is not whole or has versions '
      'that do not fit: moejax doctor says what is wrong'
    )
    sys.exit(exits.BAD_INPUT)
