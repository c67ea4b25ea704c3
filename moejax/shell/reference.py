"""What each command is and which flags it has, without importing it.

A command imports JAX, which takes two seconds. So its flags are written down in
`flags.jsonl`, which tests/shell/test_reference.py compares with the parsers of
the commands, and writes anew with UPDATE_GOLDEN=1. The text of a help is the
docstring in the command's source.
"""

import argparse
import ast
import dataclasses
import functools
import importlib.util
import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from moejax import shell
from moejax.core import command, exits

# How the second name of a flag begins that can be turned off.
OFF = '--no-'
FLAGS = pathlib.Path(__file__).with_name('flags.jsonl')


@dataclasses.dataclass(frozen=True)
class Flag:
  """One flag or word of a command.

  Attributes:
    names: such as ['--json'], or two for a flag that `--no-` turns off; none
      for a word without a flag, such as FOLDER.
    metavar: what stands for the value in the help; None if it has no value.
    help: what it does.
    required: whether it has to be given.
    optional_value: whether the flag may stand without its value.
    repeats: whether it may be given several times.
    group: heading above it in the help; '' for the usual one.
  """

  names: tuple[str, ...]
  metavar: str | None
  help: str = ''
  required: bool = False
  optional_value: bool = False
  repeats: bool = False
  group: str = ''


@dataclasses.dataclass(frozen=True)
class Reference:
  """The flags of a command, or of one of its subcommands.

  Attributes:
    flags: in the order of the help.
    subcommands: by name; a command has these or flags.
    summaries: a line on each subcommand.
  """

  flags: tuple[Flag, ...] = ()
  subcommands: Mapping[str, 'Reference'] = dataclasses.field(
    default_factory=dict
  )
  summaries: Mapping[str, str] = dataclasses.field(default_factory=dict)


@functools.cache
def modules() -> dict[str, str]:
  """Module of each command, by the command's name."""
  return {
    command.name_of(module): module
    for group in shell.GROUPS.values()
    for module in group
  }


def docstring(module: str) -> str:
  """The docstring of a module, read from its source."""
  spec = importlib.util.find_spec(module)
  if spec is None or spec.origin is None:
    raise ModuleNotFoundError(f'No module named {module!r}', name=module)
  source = pathlib.Path(spec.origin).read_text(encoding='utf-8')
  return ast.get_docstring(ast.parse(source), clean=False) or ''


def summary(module: str) -> str:
  """The first line of a module's docstring."""
  return docstring(module).partition('\n')[0]


@functools.cache
def references() -> dict[str, Reference]:
  """What `flags.jsonl` says of all commands, by their names."""
  lines = FLAGS.read_text(encoding='utf-8').splitlines()
  return of_rows([json.loads(line) for line in lines])


def of(name: str) -> Reference:
  """What is written down of a command; nothing of one without flags."""
  return references().get(name, Reference())


def of_rows(rows: Sequence[Mapping[str, Any]]) -> dict[str, Reference]:
  """References by the names of commands, from what `rows` made of them."""
  flags: dict[str, list[Flag]] = {}
  subcommands: dict[str, dict[str, Reference]] = {}
  summaries: dict[str, dict[str, str]] = {}
  for row in rows:
    name, _, subcommand = row['command'].partition(' ')
    own = flags.setdefault(row['command'], [])
    if 'summary' in row:
      summaries.setdefault(name, {})[subcommand] = row['summary']
    else:
      keys = {key: value for key, value in row.items() if key != 'command'}
      own.append(Flag(**{**keys, 'names': tuple(keys['names'])}))
  for words, own in flags.items():
    name, _, subcommand = words.partition(' ')
    if subcommand:
      of_command = subcommands.setdefault(name, {})
      of_command[subcommand] = Reference(tuple(own))
  names = dict.fromkeys(words.partition(' ')[0] for words in flags)
  return {
    name: Reference(
      tuple(flags.get(name, ())),
      subcommands.get(name, {}),
      summaries.get(name, {}),
    )
    for name in names
  }


def rows(name: str, reference: Reference) -> list[dict[str, Any]]:
  """The lines of `flags.jsonl` on a command; what is as by default is left out.

  Example: {'command': 'count', 'names': ['--json'], 'metavar': None,
    'help': 'print JSON'}
  """
  lines = [_row(name, flag) for flag in reference.flags]
  for subcommand, one in reference.subcommands.items():
    words = f'{name} {subcommand}'
    lines.append({'command': words, 'summary': reference.summaries[subcommand]})
    lines += [_row(words, flag) for flag in one.flags]
  return lines


def _row(words: str, flag: Flag) -> dict[str, Any]:
  usual = Flag((), None)
  return {'command': words} | {
    name: value
    for name, value in dataclasses.asdict(flag).items()
    if name in {'names', 'metavar'} or value != getattr(usual, name)
  }


def of_parser(parser: argparse.ArgumentParser) -> Reference:
  """The flags of a parser as they are written down."""
  flags: list[Flag] = []
  usual = {parser._positionals, parser._optionals}
  titles = {
    action.dest: group.title or ''
    for group in parser._action_groups
    if group not in usual
    for action in group._group_actions
  }
  for action in parser._actions:
    if isinstance(action, argparse._SubParsersAction):
      return Reference(
        tuple(flags),
        {name: of_parser(one) for name, one in action.choices.items()},
        {a.dest: a.help or '' for a in action._choices_actions},
      )
    everywhere = {'--help', exits.TRACE} & {*action.option_strings}
    if everywhere or action.help == argparse.SUPPRESS:
      continue
    flags.append(_flag(parser, action, titles.get(action.dest, '')))
  return Reference(tuple(flags))


def _flag(
  parser: argparse.ArgumentParser, action: argparse.Action, group: str
) -> Flag:
  names = tuple(action.option_strings)
  formatter = parser._get_formatter()
  text = formatter._expand_help(action) if action.help else ''
  if names[1:] and names[1].startswith(OFF):
    text = text.removesuffix(f' (default: {action.default})')
  metavar = action.metavar or (action.dest.upper() if names else action.dest)
  if action.choices and not action.metavar:
    metavar = f'{{{",".join(map(str, action.choices))}}}'
  return Flag(
    names,
    None if action.nargs == 0 else str(metavar),
    text,
    required=bool(names) and action.required,
    optional_value=action.nargs == '?',
    repeats=isinstance(action, argparse._AppendAction),
    group=group,
  )


class _OnOff(argparse.Action):
  """A flag that `--no-` turns off, as argparse.BooleanOptionalAction shows it.

  That class adds the default to the help in some versions of Python.
  """

  def format_usage(self) -> str:
    return ' | '.join(self.option_strings)


def parser(name: str) -> argparse.ArgumentParser:
  """A parser with the help of a command; it does not check values."""
  flags = command.parser(docstring(modules()[name]), f'moejax {name}')
  _add(flags, of(name))
  return flags


def _add(parser: argparse.ArgumentParser, reference: Reference) -> None:
  groups: dict[str, Any] = {'': parser}
  for flag in reference.flags:
    if flag.group not in groups:
      groups[flag.group] = parser.add_argument_group(flag.group)
    groups[flag.group].add_argument(
      *(flag.names or (flag.metavar,)), **_keys(flag)
    )
  if reference.subcommands:
    names = '|'.join(reference.subcommands)
    kinds = parser.add_subparsers(required=True, metavar=names)
    for name, one in reference.subcommands.items():
      summary = reference.summaries[name].replace('%', '%%')
      _add(kinds.add_parser(name, help=summary), one)


def _keys(flag: Flag) -> dict[str, Any]:
  """Arguments of `add_argument` that make the same line of help."""
  keys: dict[str, Any] = {'help': flag.help.replace('%', '%%') or None}
  if flag.names[1:] and flag.names[1].startswith(OFF):
    keys.update(action=_OnOff, nargs=0)
  elif flag.names and flag.metavar is None:
    keys['action'] = 'store_true'
  elif flag.names:
    keys['metavar'] = flag.metavar
    if flag.optional_value:
      keys['nargs'] = '?'
  if flag.names:
    keys['required'] = flag.required
  return keys
