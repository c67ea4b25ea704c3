"""The words that may stand at the cursor of a `moejax` command line.

Commands and their flags are those of `reference`; configs and sweeps those of
`core.shipped`. Config keys and variants of configs would need JAX, so they are
written down in `keys.txt` and `variants.txt`, which
tests/shell/test_completion.py compares with the real ones, and writes anew with
UPDATE_GOLDEN=1.
"""

import functools
import pathlib
import re
import shlex
from collections.abc import Iterator, Sequence

from moejax.core import exits, shipped
from moejax.shell import reference
from moejax.shell.reference import Flag, Reference

FOLDER = pathlib.Path(__file__).parent
# A line for each key: its path, and `=a,b` if it takes one of some words.
KEYS = FOLDER / 'keys.txt'
# A line for each config with variants: its name, and `:a,b`.
VARIANTS = FOLDER / 'variants.txt'
# Separates the words of a line where a shell gives them one by one.
SEPARATOR = '\x1f'
CONFIG_KEY = '--config.'
# In a path of a key: a name that users choose.
ANY_NAME = 'NAME'
EVERYWHERE = (exits.TRACE, '--help')


def script(shell: str) -> str:
  """The script that a shell reads to complete `moejax`."""
  return (FOLDER / 'scripts' / f'moejax.{shell}').read_text(encoding='utf-8')


def shells() -> list[str]:
  """The shells that have a script."""
  paths = (FOLDER / 'scripts').glob('moejax.*')
  return sorted(path.suffix.removeprefix('.') for path in paths)


def words(line: str, breaks: str = '') -> list[str]:
  """What may stand at the end of a line; nothing where files may.

  Args:
    line: the command up to the cursor, as typed, or its words with SEPARATOR
      between them.
    breaks: characters at which the shell ends a word, as bash ends it at `=`
      and `:`. The words are then without what is before the last of these.

  Example:
    'moejax count --config=ds_1' gives ['--config=ds_145b', '--config=ds_16b',
    '--config=ds_16b_chat'], and with '=:' ['ds_145b', 'ds_16b', 'ds_16b_chat']
  """
  before, partial = _split(line)
  found = [w for w in _candidates(before, partial) if w.startswith(partial)]
  cut = max(
    (partial.rfind(mark) for mark in '=:' if mark in breaks), default=-1
  )
  return [word[cut + 1 :] for word in dict.fromkeys(found)]


def _split(line: str) -> tuple[list[str], str]:
  """The whole words behind `moejax`, and the begun one."""
  if SEPARATOR in line:
    found = line.split(SEPARATOR)
  else:
    try:
      found = shlex.split(line)
    except ValueError:  # within quotes, where a path or a text stands
      return [], SEPARATOR
    if not line or line[-1].isspace():
      found.append('')
  return found[1:-1], found[-1]


def _candidates(before: Sequence[str], partial: str) -> list[str]:
  if partial == SEPARATOR:
    return []
  if not before:
    return [*reference.modules(), 'help', '--help', '--version']
  name, *rest = before
  if name == 'help':
    return _help_words(rest)
  if name not in reference.modules():
    return []
  command = reference.of(name)
  if command.subcommands:
    chosen = [word for word in rest if word in command.subcommands]
    if not chosen:
      return [*command.subcommands, '--help']
    command = command.subcommands[chosen[0]]
  return _flag_words(command, rest, partial)


def _help_words(rest: Sequence[str]) -> list[str]:
  if not rest:
    return [*reference.modules()]
  command = reference.of(rest[0])
  return [*command.subcommands] if len(rest) == 1 else []


def _flag_words(
  command: Reference, rest: Sequence[str], partial: str
) -> list[str]:
  """Flags, keys, or values of a flag."""
  by_name = {name: flag for flag in command.flags for name in flag.names}
  if partial.startswith(CONFIG_KEY):
    return [CONFIG_KEY + w for w in _keys(partial.removeprefix(CONFIG_KEY))]
  name, equals, value = partial.partition('=')
  if equals:
    found = _values(by_name.get(name), value)
    return [f'{name}={word}' for word in found]
  last = rest[-1] if rest else ''
  if last.startswith(CONFIG_KEY) and '=' not in last:
    key = last.removeprefix(CONFIG_KEY)
    return [w.removeprefix(f'{key}=') for w in _keys(f'{key}=')]
  if last in by_name and _takes_word(by_name[last]):
    return _values(by_name[last], partial)
  if not partial.startswith('-') and (words := _first_words(command, rest)):
    return words
  if not partial and _has_place(command):
    return []
  given = {word.partition('=')[0] for word in rest}
  flags = [
    f'{flag.names[0]}{"=" if _takes_word(flag) else ""}'
    for flag in command.flags
    if flag.names and (flag.repeats or given.isdisjoint(flag.names))
  ]
  return [*flags, CONFIG_KEY, *EVERYWHERE]


def _takes_word(flag: Flag) -> bool:
  return flag.metavar is not None and not flag.optional_value


def _has_place(command: Reference) -> bool:
  """Whether a word without a flag belongs to the command, such as a folder."""
  return any(not flag.names for flag in command.flags)


def _first_words(command: Reference, rest: Sequence[str]) -> list[str]:
  """What the first word without a flag may be, if it is one of some words."""
  if any(not word.startswith('-') for word in rest):
    return []
  for flag in command.flags:
    if not flag.names:
      return _choices(flag)
  return []


def _choices(flag: Flag) -> list[str]:
  """The words of a metavar such as `{auto,off}`."""
  metavar = flag.metavar or ''
  return metavar.strip('{}').split(',') if metavar.startswith('{') else []


def _values(flag: Flag | None, value: str) -> list[str]:
  """What may stand as the value of a flag."""
  if flag is None:
    return []
  if '--config' in flag.names:
    return _specs(value)
  if '--sweep' in flag.names and flag.metavar is not None:
    return shipped.names('sweep')
  return _choices(flag)


def _specs(spec: str) -> list[str]:
  """Names of configs, or the words behind the colon of one."""
  name, colon, _ = spec.partition(':')
  if not colon:
    return shipped.names('config')
  done = re.match('.*[:,]', spec)
  lines = VARIANTS.read_text(encoding='utf-8').splitlines()
  variants = dict(line.split(':') for line in lines)
  found = [*filter(None, variants.get(name, '').split(',')), 'tiny']
  return [f'{done[0] if done else ""}{word}' for word in found]


@functools.cache
def _all_keys() -> list[str]:
  return KEYS.read_text(encoding='utf-8').splitlines()


def _keys(text: str) -> list[str]:
  """The next part of the paths of keys, or the values of one.

  Example: 'opt.sch' gives ['opt.schedule=', 'opt.schedule.'].
  """
  path, equals, _ = text.partition('=')
  return [*(_key_values(path) if equals else _key_parts(text))]


def _key_values(path: str) -> Iterator[str]:
  for line in _all_keys():
    key, _, values = line.partition('=')
    if values and _matches(path, key):
      yield from (f'{path}={value}' for value in values.split(','))


def _key_parts(text: str) -> Iterator[str]:
  begun = text.split('.')
  outer, depth = begun[:-1], len(begun)
  for line in _all_keys():
    parts = line.partition('=')[0].split('.')
    *before, name = parts[:depth]
    same = len(before) == len(outer) and _same(outer, before)
    if same and name != ANY_NAME:
      end = '=' if len(parts) == depth else '.'
      yield '.'.join([*outer, name]) + end


def _matches(path: str, key: str) -> bool:
  parts = path.split('.')
  return len(parts) == key.count('.') + 1 and _same(parts, key.split('.'))


def _same(parts: Sequence[str], of_key: Sequence[str]) -> bool:
  return all(
    theirs in (ours, ANY_NAME)
    for ours, theirs in zip(parts, of_key, strict=True)
  )
