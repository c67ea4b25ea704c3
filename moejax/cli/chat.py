r"""Talks with a trained model in the terminal.

  moejax chat --workdir=runs/chat
  moejax chat --workdir=runs/chat --temperature=0 \
    --system='Answer in one word.'
  echo 'Is 2 even?' | moejax chat --workdir=runs/chat

The conversation is put into the model's own chat template, or another one with
--template. Answers are printed as they are written. An answer ends with the
marker that ends a turn in the template, with any of the model's end tokens, or
before a string of --stop. Tokens are drawn as by `moejax generate`.

/image FILE shows an image to a model that reads images: the next question has
it, where it says <image> or before its text.

/reset begins anew. /show shows the experts of the last answer in the first, the
middle and the last layer; /show 2-5 in layers 2 to 5, as `moejax generate
--show-routing` does. Ctrl-C ends an answer, and Ctrl-D the conversation.

The model is on one device; --config.mesh.fsdp=-1 splits it over all.
"""

import argparse
import io
import sys
from collections.abc import Sequence

from moejax.core import command, exits, terminal
from moejax.run import generation, restore, talk, trained, turns


def main(argv: Sequence[str]) -> None:
  """Reads the flags, loads the model, and answers lines of stdin."""
  args, overrides = command.parse(_flags(), argv)
  model = trained.open_trained(args.workdir, overrides, weights=args.weights)
  vocab = turns.vocab_of(model, args.template)
  settings = talk.Settings(
    sampling=generation.sampling_of(args, model, terminal.note),
    max_new_tokens=args.max_new_tokens,
    stops=tuple(args.stop),
    system=args.system,
    seed=args.seed or 0,
  )
  weights, step = model.weights(args.step, terminal.note)
  own = talk.Talk(model, weights, step, vocab, settings)
  terminal.note(
    f'{args.workdir}, checkpoint of step {step}; {settings.sampling.in_words}; '
    f'{own.help}'
  )
  if isinstance(sys.stdin, io.TextIOWrapper):
    # Other bytes than UTF-8 are an error of their line alone.
    sys.stdin.reconfigure(errors='surrogateescape')
  talk.converse(own, _read, terminal.write, terminal.note)
  if sys.stdin.isatty():
    terminal.note('')


def _read() -> str:
  """The next line of stdin, after a prompt on a terminal."""
  return input('> ' if sys.stdin.isatty() else '')


def _flags() -> argparse.ArgumentParser:
  flags = command.parser(__doc__)
  restore.add_step_flag(flags)
  trained.add_weights_flag(flags)
  add = flags.add_argument
  add('--workdir', required=True, help='of the run whose model answers')
  text = 'a built-in chat template or a .jinja file, not the own'
  add('--template', default='', help=text)
  text = 'a system message at the beginning'
  add('--system', default='', type=command.text, help=text)
  text = 'a string that ends an answer; may be repeated'
  add('--stop', default=[], action='append', type=command.text, help=text)
  at_least_1 = command.number(int, 1)
  add('--max_new_tokens', type=at_least_1, default=512, help='per answer')
  add('--temperature', type=float, help='0: the most probable token each time')
  add('--top_p', type=float, help='nucleus sampling; 1: all')
  add('--top_k', type=int, help='draw from so many tokens; 0: all')
  add('--seed', type=command.seed, help='of sampling')
  return flags


if __name__ == '__main__':
  exits.main(main, keeps=False)
