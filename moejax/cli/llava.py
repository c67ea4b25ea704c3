r"""Vision-language models: what a LLaVA folder holds, and what it answers.

  python -m moejax.cli.llava inspect FOLDER
  python -m moejax.cli.llava answer FOLDER --images=photos --image=cat.jpg \
    --prompt='What is this?'

FOLDER has config.json and safetensors of LlavaForConditionalGeneration, or is
`owner/name` on the hub, which needs moejax[hf]. In the prompt <image> stands
for an image; without one, images stand before it. More: docs/vision.md.
"""

import argparse
import dataclasses
from collections.abc import Sequence

from moejax.core import command, errors, exits, terminal
from moejax.run import llava_folders


def main(argv: Sequence[str]) -> None:
  """Reads the flags and runs the subcommand."""
  args, overrides = command.parse(_flags(), argv)
  if overrides:
    raise errors.InputError(
      f'--config.{overrides[0][0]}: this command has no config; leave it out'
    )
  args.run(args)


def _flags() -> argparse.ArgumentParser:
  flags = command.parser(__doc__)
  kinds = flags.add_subparsers(required=True, metavar='inspect|answer')
  one = kinds.add_parser('inspect', help='what a folder holds')
  one.add_argument('folder')
  one.set_defaults(run=_inspect)
  one = kinds.add_parser('answer', help='answers a prompt with images')
  add = one.add_argument
  add('folder')
  add('--prompt', required=True, help='text, with <image> for an image')
  add('--images', default='.', help='folder of the images')
  add('--image', action='append', default=[], help='a path in it; in order')
  count = command.number(int, 1, 10**6)
  add('--max_new_tokens', type=count, default=128, help='of the answer')
  warm = command.number(float, 0)
  add('--temperature', type=warm, default=0.0, help='0: the most probable')
  add('--seed', type=command.seed, default=0, help='of sampling')
  add('--raw', action='store_true', help='leave the chat template out')
  one.set_defaults(run=_answer)
  return flags


def _inspect(args: argparse.Namespace) -> None:
  for line in llava_folders.lines(args.folder):
    terminal.say(line)


def _answer(args: argparse.Namespace) -> None:
  args.names = tuple(args.image)
  names = [field.name for field in dataclasses.fields(llava_folders.Question)]
  question = llava_folders.Question(**{n: getattr(args, n) for n in names})
  terminal.say(llava_folders.answer(question))


if __name__ == '__main__':
  exits.main(main)
