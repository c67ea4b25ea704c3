r"""Lets a trained model continue texts.

  python -m moejax.cli.generate --workdir=runs/tiny --prompt='In the beginning'
  python -m moejax.cli.generate --workdir=runs/tiny --temperature=0.8 \
    --top_p=0.95 --seed=1 --prompt='The United States' --prompt='def main('

One prompt is continued as one watches; several are printed when all are done.
Without --temperature the most probable token is taken each time. The weights
are those of the newest checkpoint that is whole, on one device;
`--config.mesh.fsdp=-1` splits them over all.
"""

import argparse
import dataclasses
import math
import sys
from collections.abc import Iterator, Sequence

import jax

from moejax.cli import command, restore
from moejax.core import config
from moejax.data.vocab import Vocab
from moejax.evals import generate
from moejax.model import build
from moejax.parallel import mesh as meshes

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
  sampling = generate.Sampling(args.temperature, args.top_p, args.top_k)
  run = restore.run_of(args.workdir)
  # Where the run was trained is not where its model is used.
  run = dataclasses.replace(run, mesh=meshes.MeshConfig(data=1))
  run = config.override_all(run, overrides)
  run.check()
  vocab = run.data.vocab
  prompts = [vocab.encode(text) for text in args.prompt]
  model = build.build(run.model, _mesh(run.mesh))
  # Said before gigabytes are read.
  generate.check(model, prompts, args.max_new_tokens, vocab.start)
  weights, step = restore.weights(model, args.workdir, _note)
  tokens = generate.stream(
    model,
    weights,
    prompts,
    sampling,
    max_new_tokens=args.max_new_tokens,
    end_ids=[vocab.eos_id],
    seed=args.seed,
    start=vocab.start,
  )
  _note(f'{args.workdir}, checkpoint of step {step}')
  if len(prompts) == 1:
    _speak(vocab, prompts[0], tokens)
  else:
    _print_all(vocab, prompts, tokens)


def _flags() -> argparse.ArgumentParser:
  flags = command.parser(f'{__doc__}\n{command.__doc__}')
  add = flags.add_argument
  add('--workdir', required=True, help='of the run whose model is asked')
  add(
    '--prompt',
    required=True,
    action='append',
    type=command.text,
    help='a text to continue; may be given several times',
  )
  add(
    '--max_new_tokens',
    type=command.number(int, 1),
    default=128,
    help='per prompt',
  )
  add('--temperature', type=float, default=0.0, help='0 is greedy')
  add('--top_p', type=float, default=1.0, help='nucleus; 1 is all')
  add('--top_k', type=int, default=0, help='0 is all')
  add('--seed', type=command.seed, default=0, help='of what is drawn')
  return flags


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
  command.main(main)
