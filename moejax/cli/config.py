"""Lists every config key, or shows the config of a run without training it.

  moejax config --list
  moejax config --list=opt
  moejax config --list=router.k --json
  moejax config --config=zoo:olmoe --config.train.steps=300

--list shows each key with its default, its type and range, and its meaning;
--list=TEXT those whose path has TEXT in it. A key behind "with" is there only
with that choice: model.moe.router.k with model.moe.router=top_k.

With --config it shows the value of every key of that run, as its config.json
would have it, after the file, :tiny and the flags. It is checked like the
config of a run, and nothing is trained or packed. --changed shows only the keys
that differ from the defaults. A value is written as a flag takes it.
"""

from collections.abc import Sequence

from moejax import config as configs
from moejax.core import command, errors, exits
from moejax.run import config_view


def main(argv: Sequence[str]) -> None:
  """Reads the flags, and prints keys or values."""
  flags = command.parser(__doc__)
  add = flags.add_argument
  every = config_view.ALL
  add('--list', nargs='?', const=every, metavar='TEXT', help='show keys')
  add('--config', help='path[:arg] of a config whose values are shown')
  add('--changed', action='store_true', help='only values that are no defaults')
  add('--json', action='store_true', help='print JSON')
  args, overrides = command.parse(flags, argv)
  if (args.list is None) == (args.config is None):
    raise errors.InputError('give --list or --config=FILE, one of the two')
  if args.list is not None:
    idle = [f'--config.{key}' for key, _ in overrides]
    idle += ['--changed'] if args.changed else []
    if idle:
      raise errors.InputError(f'{idle[0]} goes with --config, not with --list')
    print(config_view.of_keys(args.list, args.json))
    return
  run = configs.load(args.config, overrides)
  print(config_view.of_run(run, args.changed, args.json))


if __name__ == '__main__':
  exits.main(main, keeps=False)
