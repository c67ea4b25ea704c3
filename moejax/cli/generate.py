r"""Lets a trained model continue texts.

  moejax generate --workdir=runs/tiny --prompt='In the beginning'
  moejax generate --workdir=runs/tiny --temperature=0.8 \
    --top_p=0.95 --seed=1 --prompt='The United States' --prompt='def main('
  moejax generate --workdir=runs/imported --chat \
    --prompt='What is a mixture of experts?'
  moejax generate --workdir=runs/seeing --chat --image=cat.jpg \
    --prompt='<image> What is this?'

The continuation of one prompt is printed token by token; those of several are
printed when all are done. Tokens are drawn as in the samples of a run's report
(temperature 0.7, top_p 0.9), or by the generation_config.json of an imported
model. A text ends with any of the model's end tokens.

A prompt begins as texts do in training: with the start token of the vocabulary.
Special tokens in it, such as <|im_start|>, are read as such, unless
--no-special_tokens is given. --chat puts each prompt, as the message of a user,
into the model's own chat template, or that of the conversations it was trained
on, or that of --template, and prints only the answer.

With --show-routing the experts of every token are shown, of the prompt and of
what was written; with --intervene beside those of a changed model:

  moejax generate --workdir=runs/tiny --prompt='In the' \
    --show-routing=1-3 --intervene=mask_top=1/8

The model is on one device; --config.mesh.fsdp=-1 splits it over all.
"""

import argparse
import dataclasses
from collections.abc import Sequence

from moejax.core import command, exits, terminal
from moejax.run import generation, playground, prompts_file, restore, trained


def main(argv: Sequence[str]) -> None:
  """Reads the flags, loads the model, and prints what it writes."""
  args, overrides = command.parse(_flags(), argv)
  prompts_file.add(args)
  names = [
    field.name for field in dataclasses.fields(generation.GenerationRequest)
  ]
  request = generation.GenerationRequest(**{
    name: getattr(args, name) for name in names
  })
  request.check()
  playground.check(args)
  model = trained.open_trained(args.workdir, overrides, weights=args.weights)
  if args.show_routing is not None:
    playground.run(model, request, args, terminal.write)
    return
  make = generation.as_json if args.json else generation.pieces
  for piece in make(model, request, args.step, terminal.note):
    terminal.write(piece)


def _flags() -> argparse.ArgumentParser:
  flags = command.parser(__doc__)
  restore.add_step_flag(flags)
  trained.add_weights_flag(flags)
  add = flags.add_argument
  add('--workdir', required=True, help='of the run whose model writes')
  text = 'a text to continue; may be repeated'
  add('--prompt', default=[], action='append', type=command.text, help=text)
  text = 'a text to continue on each line, or JSON lines with a "prompt"'
  add('--prompts_file', metavar='FILE', help=text)
  text = 'an image, for the next <image> of the prompts; may be repeated'
  add('--image', default=[], action='append', metavar='FILE', help=text)
  text = 'ids instead of a text, such as 1,42,7; nothing is put before them'
  add('--prompt_ids', default=[], action='append', type=_ids, help=text)
  add('--chat', action='store_true', help="use the model's chat template")
  text = 'for --chat: a built-in template or a .jinja file, not the own'
  add('--template', default='', help=text)
  on_off = argparse.BooleanOptionalAction
  text = 'read special tokens in prompts as such'
  add('--special_tokens', action=on_off, default=True, help=text)
  at_least_1 = command.number(int, 1)
  add('--max_new_tokens', type=at_least_1, default=128, help='per prompt')
  warm = command.number(float, 0)
  add('--temperature', type=warm, help='0: the most probable token each time')
  add('--top_p', type=command.number(float), help='nucleus sampling; 1: all')
  add('--top_k', type=command.number(int, 0), help='draw from so many; 0: all')
  add('--seed', type=command.seed, help='of sampling')
  playground.add_flags(flags)
  return flags


def _ids(text: str) -> list[int]:
  return [int(number) for number in text.split(',')]


_ids.__name__ = 'list of ids'  # argparse names it in errors


if __name__ == '__main__':
  exits.main(main, keeps=False)
