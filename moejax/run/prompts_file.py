"""Prompts from a file, for `cli.generate`."""

import argparse
import json
import pathlib

from moejax.core import errors
from moejax.data.chat.messages import IMAGE
from moejax.evals.picture import Picture, of_file


def add(args: argparse.Namespace) -> None:
  """Adds the prompts of `--prompts_file` to those of `--prompt`.

  `args.images` are then the images of all of them: those of `--image`, and
  those that the file names.

  Raises:
    InputError: as of `read`.
  """
  args.images = [of_file(name, f'--image={name}') for name in args.image]
  if args.prompts_file:
    prompts, pictures = read(args.prompts_file)
    args.prompt, args.images = args.prompt + prompts, args.images + pictures


def read(path: str) -> tuple[list[str], list[Picture]]:
  """The prompts of a file: a line each, or the field `prompt` of JSON lines.

  Empty lines are left out. A JSON line may name the images of its prompt under
  `image` or `images`: paths below the folder of the file.

  Args:
    path: of a text file, or of a .jsonl file.

  Returns:
    The prompts, and the images of all of them in the order of the `<image>`
    that stand for them.

  Raises:
    InputError: the file cannot be read, has no prompt, or a line is no JSON
      object with a `prompt`, or has other images than `<image>`.
  """
  file, prompts = pathlib.Path(path), list[str]()
  pictures: list[Picture] = []
  try:
    lines = file.read_text('utf-8-sig').split('\n')
  except (OSError, UnicodeDecodeError) as e:
    reason = getattr(e, 'strerror', None) or 'it is not UTF-8'
    raise errors.InputError(
      f'--prompts_file={path} cannot be read: {reason}'
    ) from None
  for number, line in enumerate(lines, 1):
    if line.strip():
      is_json = file.suffix == '.jsonl'
      place = f'--prompts_file={path}:{number}'
      text, names = _of_json(line, place) if is_json else (line, [])
      prompts.append(text)
      pictures += [
        Picture(place, None, str(file.parent), name) for name in names
      ]
  if not prompts:
    raise errors.InputError(f'--prompts_file={path} has no prompt')
  marks = sum(prompt.count(IMAGE) for prompt in prompts)
  if pictures and len(pictures) != marks:
    raise errors.InputError(
      f'--prompts_file={path} names {len(pictures)} images, and its prompts '
      f'have {marks} {IMAGE}: name the images of all of them, or of none'
    )
  return prompts, pictures


def _of_json(line: str, place: str) -> tuple[str, list[str]]:
  """Prompt and images of a JSON object; `place` is for the error."""
  try:
    row = json.loads(line)
    prompt, found = row['prompt'], row.get('image') or row.get('images') or []
  except (ValueError, TypeError, KeyError, AttributeError):
    prompt, found = None, []
  if not isinstance(prompt, str):
    raise errors.InputError(
      f'{place}: not a JSON object with a text under "prompt"'
    )
  names = [found] if isinstance(found, str) else found
  if not isinstance(names, list) or not all(isinstance(n, str) for n in names):
    raise errors.InputError(
      f'{place}: its images must be a path, or a list of paths'
    )
  if names and IMAGE not in prompt:
    prompt = f'{IMAGE}\n' * len(names) + prompt
  if names and prompt.count(IMAGE) != len(names):
    raise errors.InputError(
      f'{place}: has {len(names)} images and {prompt.count(IMAGE)} {IMAGE}; '
      'each image needs one'
    )
  return prompt, names
