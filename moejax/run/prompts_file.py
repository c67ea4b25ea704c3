"""Prompts from a file, for `cli.generate`."""

import json
import pathlib

from moejax.core import errors


def read(path: str) -> list[str]:
  """The prompts of a file: a line each, or the field `prompt` of JSON lines.

  Empty lines are left out.

  Args:
    path: of a text file, or of a .jsonl file.

  Raises:
    InputError: the file cannot be read, has no prompt, or a line is no JSON
      object with a `prompt`.
  """
  file, prompts = pathlib.Path(path), list[str]()
  try:
    lines = file.read_text('utf-8').splitlines()
  except (OSError, UnicodeDecodeError) as e:
    reason = getattr(e, 'strerror', None) or 'it is not UTF-8'
    raise errors.InputError(
      f'--prompts_file={path} cannot be read: {reason}'
    ) from None
  for number, line in enumerate(lines, 1):
    if line.strip():
      is_json = file.suffix == '.jsonl'
      place = f'--prompts_file={path}:{number}'
      prompts.append(_prompt_of_json(line, place) if is_json else line)
  if not prompts:
    raise errors.InputError(f'--prompts_file={path} has no prompt')
  return prompts


def _prompt_of_json(line: str, place: str) -> str:
  """The field `prompt` of a JSON object; `place` is for the error."""
  try:
    prompt = json.loads(line)['prompt']
  except (ValueError, TypeError, KeyError):
    prompt = None
  if not isinstance(prompt, str):
    raise errors.InputError(
      f'{place}: not a JSON object with a text under "prompt"'
    )
  return prompt
