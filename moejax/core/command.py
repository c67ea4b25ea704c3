"""Flags and overrides of config keys, as all commands parse them."""

import argparse
import difflib
import math
import re
import sys
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

from moejax.core import errors, examples, exits, home

# The command `moejax` has another name for it.
TRAIN = 'moejax.main'


class _Parser(argparse.ArgumentParser):
  """An argparse parser that raises InputError, whose message is one line."""

  def __init__(self, shown: str = '', **kwargs: Any):
    # The parsers of subcommands are of this class too, but do not inherit
    # `allow_abbrev`: no parser may take the beginning of a flag for the flag.
    super().__init__(**{**kwargs, 'allow_abbrev': False})
    self.register('action', None, _Once)
    self.register('action', 'store', _Once)
    self.shown = shown
    if shown:
      self.epilog = f'examples:\n{shown}'
      self.formatter_class = argparse.RawDescriptionHelpFormatter

  def add_subparsers(self, **kwargs: Any) -> Any:
    # It is called, and need not be a class.
    with_examples: Any = lambda **kwargs: _Parser(
      examples.of_subcommand(self.shown, kwargs['prog']), **kwargs
    )
    return super().add_subparsers(parser_class=with_examples, **kwargs)

  def error(self, message: str) -> NoReturn:
    # Messages of `number` and `text` begin with the value: `=0 must be ...`.
    message = re.sub(r'^argument (--[\w-]+): =', r'\1=', message)
    raise errors.InputError(f'{message}; see --help')


class _Once(argparse.Action):
  """Stores a flag's value; refuses an empty value and two different ones."""

  given: Any = None

  def __call__(self, parser, namespace, values, option_string=None):
    if values == '' and option_string:
      parser.error(f'{option_string}= is empty')
    if isinstance(values, str):
      values = home.at_home(values)
    if self.given is not None and self.given != values:
      parser.error(
        f'{option_string}={self.given} and {option_string}={values} contradict '
        'each other; give one'
      )
    self.given = values
    setattr(namespace, self.dest, values)


def parser(doc: str, program: str | None = None) -> argparse.ArgumentParser:
  """A parser whose help is a module's docstring and the exit codes.

  The examples below the first line of the docstring end the help. A flag may be
  given one value, which is not empty; a flag whose `action` is `append` may be
  given several.

  Args:
    doc: the docstring.
    program: how the command was started, such as 'moejax count'; by default
      `started_as` says it.
  """
  text, shown = examples.split(doc)
  codes = str(exits.__doc__).partition('\n\n')[2]
  flags = _Parser(
    shown,
    prog=program or started_as(),
    description=f'{text}\n\n{codes}',
    formatter_class=argparse.RawDescriptionHelpFormatter,
  )
  flags.add_argument(
    exits.TRACE, action='store_true', help='show where an error comes from'
  )
  return flags


def started_as() -> str | None:
  """How this process was started: 'moejax count', 'python -m moejax.cli.count'.

  None if it runs no module of moejax, but a script or a test.
  """
  spec = getattr(sys.modules['__main__'], '__spec__', None)
  module = spec.name.removesuffix('.__main__') if spec else ''
  if module.partition('.')[0] not in {'moejax', 'benchmarks'}:
    return None
  if ('-m', module) in zip(sys.orig_argv, sys.orig_argv[1:], strict=False):
    return f'python -m {module}'
  return f'moejax {name_of(module)}'


def name_of(module: str) -> str:
  """The name of a command within `moejax`, by its module.

  Example: 'moejax.cli.count' is 'count', 'moejax.main' is 'train'.
  """
  return 'train' if module == TRAIN else module.rpartition('.')[2]


def number(
  kind: type, least: float = -math.inf, most: float = math.inf
) -> Callable[[str], Any]:
  """A `type=` for a flag whose value is a number between two bounds.

  Example, number(int, 1, 9) with --limit=0:
    --limit=0 must be from 1 to 9; see --help
  """

  def parse_number(text: str) -> Any:
    try:
      value = kind(text)
    except ValueError:
      name = 'a whole number' if kind is int else 'a number'
      raise argparse.ArgumentTypeError(f'={text} is not {name}') from None
    if not least <= value <= most or not math.isfinite(value):
      if least > -math.inf and most < math.inf:
        bounds = f'from {least} to {most}'
      elif most < math.inf:
        bounds = f'{most} or less'
      else:
        bounds = f'{least} or more' if least > -math.inf else 'finite'
        if least > -math.inf and not math.isfinite(value):
          bounds += ', and finite'
      raise argparse.ArgumentTypeError(f'={text} must be {bounds}')
    return value

  return parse_number


# A `type=` for the seed of random numbers: the range that `jax.random.key`
# takes.
seed = number(int, 0, 2**63 - 1)


def text(value: str) -> str:
  """A `type=` for a flag whose value is text for a model; it must be UTF-8."""
  try:
    value.encode()
  except UnicodeEncodeError as e:
    raise argparse.ArgumentTypeError(
      f'={value!r} is not UTF-8: character {e.start} is a byte that encodes no '
      'character'
    ) from None
  return value


def parse(
  flags: argparse.ArgumentParser, argv: Sequence[str]
) -> tuple[argparse.Namespace, list[tuple[str, str]]]:
  """Parses a command line.

  Returns:
    The flags, and the overrides `--config.a.b=text` as pairs ('a.b', 'text') in
    their order.

  Raises:
    InputError: an unknown flag, or an override without a value.
  """
  plain, overrides = [], []
  rest = list(argv)
  while rest:
    word = rest.pop(0)
    if not word.startswith('--config.'):
      plain.append(word)
      continue
    key, equals, text = word.removeprefix('--config.').partition('=')
    if not equals:
      if not rest or rest[0].startswith('--'):
        raise errors.InputError(f'{word} needs a value: {word}=...')
      text = rest.pop(0)
    overrides.append((key, text))
  args, unknown = flags.parse_known_args(plain)
  if unknown:
    near = _nearest(flags, unknown[0])
    flags.error(
      f'unrecognized arguments: {" ".join(unknown)}'
      + (f'; did you mean {near}?' if near else '')
    )
  return args, overrides


def parse_alone(
  flags: argparse.ArgumentParser, argv: Sequence[str]
) -> argparse.Namespace:
  """The flags of a command that has no config.

  Raises:
    InputError: there is a `--config.KEY` among them; or see `parse`.
  """
  args, overrides = parse(flags, argv)
  if overrides:
    raise errors.InputError(
      f'--config.{overrides[0][0]}: this command has no config; leave it out'
    )
  return args


def _nearest(flags: argparse.ArgumentParser, word: str) -> str:
  """The flag, of the command or a subcommand, nearest to a word; '' if none."""
  known: list[str] = []
  for action in flags._actions:
    known += action.option_strings
    if isinstance(action, argparse._SubParsersAction):
      for subparser in action.choices.values():
        known += subparser._option_string_actions
  name = word.partition('=')[0].replace('-', '_')
  spelled = {flag.replace('-', '_'): flag for flag in known}
  near = difflib.get_close_matches(name, spelled, n=1, cutoff=0.75)
  return spelled[near[0]] if near and word.startswith('--') else ''
