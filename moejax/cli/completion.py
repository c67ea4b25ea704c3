"""Prints a script with which a shell completes `moejax` on TAB.

  moejax completion bash
  moejax completion zsh
  moejax completion fish

Commands, flags, names of configs and their variants, and config keys behind
--config. are completed, and files elsewhere. It lasts as long as the shell; for
every shell put one of these lines into ~/.bashrc, ~/.zshrc (below compinit) or
~/.config/fish/config.fish:

  eval "$(moejax completion bash)"
  eval "$(moejax completion zsh)"
  moejax completion fish | source
"""

import argparse
from collections.abc import Sequence

from moejax.core import command, errors, exits, terminal
from moejax.shell import completion

# What the scripts ask for: the words that fit a line.
WORDS = 'words'


def main(argv: Sequence[str]) -> None:
  """Prints the script of a shell, or the words that fit a line."""
  flags = command.parser(__doc__)
  shells = completion.shells()
  names = f'{{{",".join(shells)}}}'
  flags.add_argument('shell', metavar=names, help='which shell')
  for name in ('line', 'breaks'):
    flags.add_argument(name, nargs='?', default='', help=argparse.SUPPRESS)
  args = command.parse_alone(flags, argv)
  if args.shell == WORDS:
    found = completion.words(args.line, args.breaks)
    if found:
      terminal.say('\n'.join(found))
    return
  if args.shell not in shells:
    raise errors.InputError(
      f'there is no completion for {args.shell!r}; there is for '
      f'{", ".join(shells)}'
    )
  terminal.write(completion.script(args.shell))


if __name__ == '__main__':
  exits.main(main, keeps=False)
