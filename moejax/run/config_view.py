"""Config keys, and the values of a run, on a terminal; for `cli.config`."""

import dataclasses
import json
import shutil
import textwrap
from typing import Any

from moejax import config as configs
from moejax.config import listing
from moejax.core import config_tree, table

ALL = 'all'


def of_keys(text: str, as_json: bool) -> str:
  """The keys whose path contains a text, or ALL, as text or as JSON.

  Raises:
    InputError: no path contains it.
  """
  keys = listing.keys()
  chosen = [key for key in keys if text in (ALL, *_ends(key.path, text))]
  if not chosen:
    raise table.unknown('config key', text, {key.path for key in keys})
  if as_json:
    return json.dumps([dataclasses.asdict(key) for key in chosen], indent=2)
  width = min(shutil.get_terminal_size().columns, 100)
  blocks = ['\n'.join(_lines(key, width)) for key in chosen]
  return '\n'.join([*blocks, f'\n{len(chosen)} of {len(keys)} keys'])


def _ends(path: str, text: str) -> tuple[str, ...]:
  """The text, if the path contains it."""
  return (text,) if text in path else ()


def _lines(key: listing.Key, width: int) -> list[str]:
  """A key as lines: path and default; type, range and condition; meaning."""
  default = shown(key.default)
  if key.type == 'parts':
    default = f'({default or "none"})'
  kind = f'{key.type}: {key.allowed}' if key.allowed else key.type
  if key.only_with:
    kind += f'; with {key.only_with}'
  below = [kind, *([key.meaning] if key.meaning else [])]
  return [
    f'{key.path}={default}',
    *(
      row
      for text in below
      for row in textwrap.wrap(
        text,
        width,
        initial_indent='    ',
        subsequent_indent='    ',
        break_long_words=False,
        break_on_hyphens=False,
      )
    ),
  ]


def of_run(run: configs.Run, changed: bool, as_json: bool) -> str:
  """The values of a run by path, as flags take them or as JSON.

  Args:
    run: the config.
    changed: leaves out values that are as by default.
    as_json: JSON instead of flags.
  """
  values = config_tree.flatten(run)
  if changed:
    usual = config_tree.flatten(configs.Run())
    values = {
      key: value
      for key, value in values.items()
      if key not in usual or usual[key] != value
    }
  if as_json:
    return json.dumps(values, indent=2)
  return '\n'.join(f'{key}={shown(value)}' for key, value in values.items())


def shown(value: Any) -> str:
  """A value as the text of a flag.

  Example: None, True and [0.8, 0.9] are none, true and 0.8,0.9.
  """
  if value is None:
    return 'none'
  if isinstance(value, bool):
    return str(value).lower()
  if isinstance(value, list):
    return ','.join(map(shown, value))
  return str(value)
