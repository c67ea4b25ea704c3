r"""Shows the page of a run in a browser, renewed while the run trains.

  moejax watch --workdir=runs/tiny
  moejax watch --workdir=runs/a --workdir=runs/b --port=7000

The page is that of `moejax report`, with what is there so far; several
workdirs make a comparison. It is served to this machine alone, at the address
that is printed. From another machine it is reached through a tunnel:
`ssh -L 6016:127.0.0.1:6016 HOST`, then http://127.0.0.1:6016/ there.

The command reads the workdirs and writes nothing. Ctrl-C stops it.
"""

from collections.abc import Sequence

import jax

from moejax.core import command, errors, exits, terminal
from moejax.run import watching


def main(argv: Sequence[str]) -> None:
  """Serves the page until Ctrl-C."""
  flags = command.parser(__doc__)
  add = flags.add_argument
  add('--workdir', required=True, action='append', help='of a run')
  ports = command.number(int, 0, watching.LAST_PORT)
  text = f'0: any that is free (default: {watching.PORT})'
  add('--port', type=ports, default=watching.PORT, help=text)
  args, overrides = command.parse(flags, argv)
  if overrides:
    raise errors.InputError(
      f'--config.{overrides[0][0]} changes nothing: runs are shown as they '
      'are; leave it out'
    )
  # A run may train on this machine: its accelerators are left alone.
  jax.config.update('jax_platforms', 'cpu')
  live = watching.live_page(args.workdir)
  watching.serve(watching.open_server(live, args.port), terminal.say)


if __name__ == '__main__':
  exits.main(main, keeps=False)
