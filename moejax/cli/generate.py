r"""Lets a trained model continue texts.

  python -m moejax.cli.generate --workdir=runs/tiny --prompt='In the beginning'
  python -m moejax.cli.generate --workdir=runs/tiny --temperature=0.8 \
    --top_p=0.95 --seed=1 --prompt='The United States' --prompt='def main('
  python -m moejax.cli.generate --workdir=runs/imported --chat \
    --prompt='What is a mixture of experts?'

One prompt is continued as one watches; several are printed when all are done.
Tokens are drawn as in the samples of a run's report (temperature 0.7, top_p
0.9), or as the generation_config.json of an imported model says; with
--temperature=0 the most probable one is taken each time. A text ends with any
of the tokens that end one for the model.

A prompt begins as texts do in training: with the start token of the vocabulary,
if it has one and the prompt does not begin with it. Special tokens in a prompt,
such as <|im_start|>, are read as such, and with --no-special_tokens as plain
text. --chat puts each prompt, as the message of a user, into the model's own
chat template, and prints the answer alone.

The weights are those of the newest checkpoint that is whole (--step=best is
that of the lowest validation loss, --step=500 that of step 500), on one device;
`--config.mesh.fsdp=-1` splits them over all.
"""

import argparse
import dataclasses
import math
import sys
from collections.abc import Iterator, Sequence

import jax
from etils import epath

from moejax.config import kept_tokenizer
from moejax.convert import chat, companions
from moejax.core import command, config_tree, errors, exits
from moejax.data.vocab import Vocab
from moejax.evals import generate, settings
from moejax.model import build
from moejax.parallel import mesh as meshes
from moejax.run import restore

# Keys of a config that are used when a model is.
USED = 'model.', 'mesh.', 'data.vocab.'
# What a decoder says of bytes that are no character (yet).
REPLACEMENT = '\N{REPLACEMENT CHARACTER}'


class Spoken:
  """The text of a growing list of ids, in pieces that are never taken back.

  The pieces together are the text of all ids. A token may be less than a
  character: what is not whole yet is kept back.

  Example, bytes: ids of 'a', then of the two bytes of 'é':
    add(a)  'a'      add(195)  ''      add(169)  'é'
  """

  def __init__(self, vocab: Vocab):
    self._vocab = vocab
    self._ids: list[int] = []
    self._said = 0

  def add(self, *ids: int) -> str:
    """The text that these ids complete."""
    self._ids.extend(ids)
    return self._piece(self._vocab.decode(self._ids).rstrip(REPLACEMENT))

  def rest(self) -> str:
    """What was kept back, when no more is to come."""
    return self._piece(self._vocab.decode(self._ids))

  def _piece(self, text: str) -> str:
    piece = text[self._said :]
    self._said = max(self._said, len(text))
    return piece


def main(argv: Sequence[str]) -> None:
  """Reads the flags, loads the model, and prints what it says."""
  args, overrides = command.parse(_flags(), argv)
  _check(args)
  run = restore.run_of(args.workdir)
  # Where the run was trained is not where its model is used.
  run = dataclasses.replace(run, mesh=meshes.MeshConfig(data=1))
  run = config_tree.override_all(run, overrides)
  _check_overrides(overrides)
  run.check()
  vocab = run.data.vocab
  place = kept_tokenizer.folder(vocab, args.workdir, run.start)
  sampling = _sampling(args, place)
  prompts = _prompts(args, vocab, place)
  # Ids, and the text of a template, are whole already.
  start = () if args.prompt_ids or args.chat else vocab.start
  end_ids = companions.end_ids(place, vocab)
  model = build.build(run.model, _mesh(run.mesh))
  # Said before gigabytes are read.
  generate.check(model, prompts, args.max_new_tokens, start)
  weights, step = restore.weights(model, args.workdir, _note, step=args.step)
  tokens = generate.stream(
    model,
    weights,
    prompts,
    sampling,
    max_new_tokens=args.max_new_tokens,
    end_ids=end_ids,
    seed=args.seed or 0,
    start=start,
  )
  _note(f'{args.workdir}, checkpoint of step {step}; {sampling.said}')
  tokens = ((row, token) for row, token in tokens if token not in end_ids)
  said = [[] if args.chat else prompt for prompt in prompts]
  if len(prompts) == 1:
    _speak(vocab, said[0], tokens)
  else:
    _print_all(vocab, said, tokens)


def _flags() -> argparse.ArgumentParser:
  flags = command.parser(__doc__)
  add = flags.add_argument
  add('--workdir', required=True, help='of the run whose model is asked')
  restore.add_step_flag(flags)
  add(
    '--prompt',
    default=[],
    action='append',
    type=command.text,
    help='a text to continue; may be given several times',
  )
  add(
    '--prompt_ids',
    default=[],
    action='append',
    type=_ids,
    help='ids instead of a text, such as 1,42,7; nothing is put before them',
  )
  add('--chat', action='store_true', help="use the model's chat template")
  add(
    '--special_tokens',
    action=argparse.BooleanOptionalAction,
    default=True,
    help='read special tokens in prompts as such',
  )
  add(
    '--max_new_tokens',
    type=command.number(int, 1),
    default=128,
    help='per prompt',
  )
  add('--temperature', type=float, help='0 is greedy')
  add('--top_p', type=float, help='nucleus; 1 is all')
  add('--top_k', type=int, help='0 is all')
  add('--seed', type=command.seed, help='of what is drawn')
  return flags


def _ids(text: str) -> list[int]:
  return [int(part) for part in text.split(',')]


_ids.__name__ = 'list of ids'  # argparse names it in errors


def _check(args: argparse.Namespace) -> None:
  """Raises InputError if flags do not go together."""
  if bool(args.prompt) == bool(args.prompt_ids):
    raise errors.InputError('give --prompt or --prompt_ids, one of the two')
  if args.prompt_ids and args.chat:
    raise errors.InputError('--chat is for --prompt: ids are taken as they are')
  if not args.special_tokens and (args.prompt_ids or args.chat):
    raise errors.InputError(
      '--no-special_tokens is for --prompt without --chat; leave it out'
    )


def _check_overrides(overrides: Sequence[tuple[str, str]]) -> None:
  """Raises InputError if a key says nothing of a model that is trained."""
  for key, text in overrides:
    if not f'{key}.'.startswith(USED):
      raise errors.InputError(
        f'--config.{key}={text} changes nothing of what a trained model says; '
        f'leave it out: keys of {", ".join(k[:-1] for k in USED)} do'
      )


def _sampling(
  args: argparse.Namespace, place: epath.Path | None
) -> generate.Sampling:
  """As the model says, but for what flags say."""
  names = 'temperature', 'top_p', 'top_k'
  given = {n: x for n in names if (x := getattr(args, n)) is not None}
  found = dataclasses.replace(settings.usual(place), **given)
  idle = [n for n in ('top_p', 'top_k', 'seed') if getattr(args, n) is not None]
  if found.temperature == 0 and idle:
    raise errors.InputError(
      f'--{idle[0]} does nothing where the most probable token is taken '
      '(temperature 0); leave it out, or give --temperature=0.7, say'
    )
  ignored = settings.ignored(place)
  if ignored:
    listed = ', '.join(f'{key}={value}' for key, value in ignored.items())
    _note(f"of the model's {companions.GENERATION} not obeyed here: {listed}")
  return found


def _prompts(
  args: argparse.Namespace, vocab: Vocab, place: epath.Path | None
) -> list[list[int]]:
  """The ids of all prompts."""
  if args.prompt_ids:
    return args.prompt_ids
  if not args.chat:
    encode = vocab.encode_prompt if args.special_tokens else vocab.encode
    return [encode(text) for text in args.prompt]
  if place is None:
    raise errors.InputError(
      f'{args.workdir} has no chat template: its model did not come with one; '
      'leave out --chat'
    )
  found = []
  for text in args.prompt:
    messages = [{'role': 'user', 'content': text}]
    found.append(vocab.encode_prompt(chat.render(place, messages)))
  return found


def _mesh(sizes: meshes.MeshConfig) -> jax.sharding.Mesh:
  """A mesh of as many devices as it asks for, the first ones."""
  devices = jax.devices()
  asked = math.prod(meshes.axis_sizes(sizes).values())
  return meshes.make(sizes, devices[:asked] if asked > 0 else devices)


def _speak(
  vocab: Vocab, prompt: Sequence[int], tokens: Iterator[tuple[int, int]]
) -> None:
  """Prints a text token by token."""
  spoken = Spoken(vocab)
  _print(spoken.add(*prompt))
  for _, token in tokens:
    _print(spoken.add(token))
  _print(spoken.rest() + '\n')


def _print_all(
  vocab: Vocab,
  prompts: Sequence[Sequence[int]],
  tokens: Iterator[tuple[int, int]],
) -> None:
  """Prints each text under its number."""
  texts = [list(prompt) for prompt in prompts]
  for row, token in tokens:
    texts[row].append(token)
  for number, ids in enumerate(texts, 1):
    _print(f'--- {number}\n{vocab.decode(ids)}\n')


def _print(text: str) -> None:
  """To stdout at once; a terminal is not sent what could command it."""
  if sys.stdout.isatty():
    text = ''.join(c if c.isprintable() or c in '\n\t' else '?' for c in text)
  print(text, end='', flush=True)


def _note(line: str) -> None:
  print(line, file=sys.stderr)


if __name__ == '__main__':
  exits.main(main)
