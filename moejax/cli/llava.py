r"""Vision-language models: what a LLaVA folder holds, and what it answers.

  moejax llava inspect FOLDER
  moejax llava answer FOLDER --images=photos --image=cat.jpg \
    --prompt='What is this?'
  moejax llava evaluate FOLDER --data=/my/benchmarks \
    --tasks=pope,mme --out=scores.json

FOLDER has config.json and safetensors of LlavaForConditionalGeneration, or is
`owner/name` on the hub, which needs moejax[hf]. In the prompt <image> stands
for an image; without one, images stand before it. `evaluate` asks the
benchmarks of the suite `vision`. More: docs/vision.md and docs/evaluation.md.
"""

import argparse
import dataclasses
from collections.abc import Sequence
from typing import Any

from moejax.core import command, exits, files, terminal
from moejax.evals.benchmarks.vision import VISION
from moejax.run import llava_folders


def main(argv: Sequence[str]) -> None:
  """Reads the flags and runs the subcommand."""
  args = command.parse_alone(_flags(), argv)
  args.run(args)


def _flags() -> argparse.ArgumentParser:
  flags = command.parser(__doc__)
  kinds = flags.add_subparsers(required=True, metavar='inspect|answer|evaluate')
  one = kinds.add_parser('inspect', help='what a folder holds')
  one.add_argument('folder')
  one.set_defaults(run=_inspect)
  one = kinds.add_parser('answer', help='answers a prompt with images')
  add = one.add_argument
  add('folder')
  text = 'text, with <image> for an image'
  add('--prompt', required=True, type=command.text, help=text)
  add('--images', default='.', help='folder of the images')
  add('--image', action='append', default=[], help='a path in it; in order')
  count = command.number(int, 1, 10**6)
  add('--max_new_tokens', type=count, default=128, help='of the answer')
  warm = command.number(float, 0)
  add('--temperature', type=warm, default=0.0, help='0: the most probable')
  add('--seed', type=command.seed, default=0, help='of sampling')
  add('--raw', action='store_true', help='leave the chat template out')
  one.set_defaults(run=_answer)
  one = kinds.add_parser('evaluate', help='asks benchmarks of images')
  add = one.add_argument
  add('folder')
  add('--data', required=True, help="folder of the benchmarks' rows")
  add('--tasks', default='', help=f'some of {",".join(VISION)}; default: all')
  rows = command.number(int, 1)
  add('--limit', type=rows, default=0, help='rows of each task; default: all')
  add('--out', default='', help='file of the results, JSON')
  add('--raw', action='store_true', help='leave the chat template out')
  one.set_defaults(run=_evaluate)
  return flags


def _inspect(args: argparse.Namespace) -> None:
  for line in llava_folders.lines(args.folder):
    terminal.say(line)


def _evaluate(args: argparse.Namespace) -> None:
  if args.out:
    files.check_output(args.out, '--out')
  args.tasks = tuple(filter(None, args.tasks.split(',')))
  llava_folders.evaluate(_request(llava_folders.Exam, args), terminal.say)


def _request(kind: type, args: argparse.Namespace) -> Any:
  """A dataclass whose fields are flags."""
  names = [field.name for field in dataclasses.fields(kind)]
  return kind(**{name: getattr(args, name) for name in names})


def _answer(args: argparse.Namespace) -> None:
  args.names = tuple(args.image)
  question = _request(llava_folders.Question, args)
  terminal.say(llava_folders.answer(question))


if __name__ == '__main__':
  exits.main(main, keeps=False)
