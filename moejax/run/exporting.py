"""Writes the weights of a workdir as a Hugging Face folder."""

import argparse
import dataclasses
import pathlib
from collections.abc import Callable
from typing import Any

from moejax.compress import even
from moejax.config import kept_tokenizer
from moejax.convert import (
  companions,
  llava,
  llava_export,
  load,
  own_tokenizer,
  save,
)
from moejax.convert import folder as folders
from moejax.convert.families import FORMS
from moejax.convert.families.family import Family
from moejax.core import command, files, table
from moejax.core.byte_bar import byte_bar
from moejax.model.config import ModelConfig
from moejax.run import restore, weight_files
from moejax.train import checkpoint
from moejax.vision.front_end import TextOnly

Say = Callable[[str], None]


@dataclasses.dataclass(frozen=True)
class Export:
  """An export; each field is a flag of `cli.convert export`.

  Attributes:
    workdir: folder of the run.
    to: the folder to write, which must have no weights.
    step: which checkpoint, see `restore.weights`.
    family: name of the Hugging Face family; '' for one that fits the model.
    dtype: dtype of the written weights.
    file_gb: largest size of a file of weights, in GB (10^9 bytes).
  """

  workdir: str
  to: str
  step: str = checkpoint.NEWEST
  family: str = ''
  dtype: str = 'float32'
  file_gb: float = 5.0


def add_flags(flags: argparse.ArgumentParser) -> None:
  """Adds the flags of `cli.convert export`."""
  add = flags.add_argument
  add('--workdir', required=True, help='of a run, or imported')
  restore.add_step_flag(flags)
  add('--to', required=True, help='folder, made; must have no weights')
  fitting = f'one of {", ".join(FORMS)}; default: the one that fits'
  add('--family', default='', help=fitting)
  add('--dtype', default='float32', help=', '.join(save.DTYPES))
  more = command.number(float, 1e-9)
  add('--file_gb', type=more, default=5.0, help='size of a file at most')


def export(args: Export, say: Say, note: Say) -> None:
  """Writes the weights of a workdir as a Hugging Face folder.

  Args:
    args: the export.
    say: is called with lines on the result.
    note: is called with warnings.

  Raises:
    InputError: no family fits the model, the checkpoint does not exist, or the
      folder cannot be written.
  """
  run = restore.run_of(args.workdir)
  target = plan_of(args, run.model)
  with weight_files.opened(args.workdir, target.shapes, args.step, note) as (
    get,
    step,
  ):
    target.write(get)
  say(
    f'{args.to} holds step {step} of {args.workdir} as a '
    f'{target.plan.family.model_type} in {args.dtype}; '
    f'{loaded_by(target.plan.family)}.'
  )
  for line in target.remarks():
    say(line)


@dataclasses.dataclass(frozen=True)
class Target:
  """A Hugging Face folder that is about to be written.

  Attributes:
    args: the export.
    plan: how the weights are written.
    beside: tokenizer and settings.
    shapes: tree of the shapes of the weights.
    model: config of the model.
    replace: (path, weight) -> the weight to write in its place, see
      `compress.even`.
  """

  args: Export
  plan: save.ExportPlan
  beside: companions.Companions
  shapes: Any
  model: ModelConfig
  replace: even.Replace

  def write(self, get: Callable[[str], save.Indexed]) -> None:
    """Writes the folder; see `convert.save.write`.

    Args:
      get: returns the weight at a path; called once for each weight, in order.

    Raises:
      InputError: the folder cannot be written.
    """
    files.check_writable(self.args.to, '--to')
    num_bytes = self.plan.num_bytes(self.args.dtype)
    with byte_bar('writing', num_bytes) as progress:
      save.write(
        self.plan,
        lambda path: self.replace(path, get(path)),
        pathlib.Path(self.args.to),
        dtype=self.args.dtype,
        shard_bytes=int(self.args.file_gb * 1e9),
        beside=self.beside,
        progress=progress,
      )
    if self.model.vision != TextOnly():
      images = restore.run_of(self.args.workdir).data.images
      to = pathlib.Path(self.args.to)
      llava_export.write_processors(to, self.model, images)

  def remarks(self) -> list[str]:
    """Lines on what the folder lacks."""
    lines = []
    tokenizers = (own_tokenizer.HF, own_tokenizer.SENTENCEPIECE)
    others = companions.OTHER_TOKENIZERS
    if not any(name in self.beside.files for name in (*tokenizers, *others)):
      vocab = restore.run_of(self.args.workdir).data.vocab
      why = own_tokenizer.lacking(vocab)
      lines.append(f'No tokenizer is among the files: {why}.')
    if self.plan.dropped:
      lines.append(
        'Left out: multi-token prediction, for which a '
        f'{self.plan.family.model_type} has no place.'
      )
    return lines


def plan_of(args: Export, model: ModelConfig) -> Target:
  """How a model with the tokenizer of a workdir is written.

  No weight is read, and nothing is made.

  Args:
    args: the export.
    model: config of the model, which may be smaller than that of the workdir.

  Raises:
    InputError: no family fits the model, or there is no such type.
  """
  run = restore.run_of(args.workdir)
  model, replace = even.with_biases(model)
  shapes = load.shapes(model)
  table.lookup('dtype', save.DTYPES, args.dtype)
  vocab = run.data.vocab
  hf_folder = kept_tokenizer.folder(vocab, args.workdir, run.start)
  model_type = ''
  if hf_folder is not None:
    theirs = companions.read(hf_folder / folders.CONFIG)
    if llava.is_llava(theirs):
      theirs = theirs.get('text_config') or {}
    model_type = theirs.get('model_type', '')
  if model.vision == TextOnly():
    plan = save.plan(model, shapes, args.family, model_type)
  else:
    names = args.family, model_type
    plan = llava_export.plan(model, shapes, run.data.images, vocab, names)
  if hf_folder is None:
    beside = companions.of_vocab(vocab)
    beside = kept_tokenizer.with_chat(beside, vocab, args.workdir)
  else:
    beside = companions.of_folder(hf_folder, vocab)
  return Target(args, plan, beside, shapes, model, replace)


def loaded_by(family: Family) -> str:
  """A clause on which code can load a family."""
  if family.in_transformers:
    return f'transformers loads it as {family.architecture}'
  return (
    f'transformers has no {family.architecture}, a class of the code that came '
    'with the release'
  )
