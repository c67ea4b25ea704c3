"""Writes the weights of a workdir as a Hugging Face folder."""

import dataclasses
import pathlib
from collections.abc import Callable

from moejax.config import kept_tokenizer
from moejax.convert import companions, load, save
from moejax.convert import folder as folders
from moejax.convert.families.family import Family
from moejax.core import files, table, trees
from moejax.core.byte_bar import byte_bar
from moejax.run import restore
from moejax.train import checkpoint

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
  shapes = load.shapes(run.model)
  table.lookup('dtype', save.DTYPES, args.dtype)
  files.check_writable(args.to, '--to')
  vocab = run.data.vocab
  hf_folder = kept_tokenizer.folder(vocab, args.workdir, run.start)
  model_type = ''
  if hf_folder is not None:
    model_type = companions.read(hf_folder / folders.CONFIG).get(
      'model_type', ''
    )
  plan = save.plan(run.model, shapes, args.family, model_type)
  if hf_folder is None:
    beside = companions.of_vocab(vocab)
  else:
    beside = companions.of_folder(hf_folder, vocab)
  with (
    restore.checkpoints(args.workdir, note) as saved,
    byte_bar('writing', plan.num_bytes(args.dtype)) as progress,
  ):
    chosen = saved.find(args.step)
    step, source = chosen.step, chosen.folder
    leaves = trees.leaves(shapes)
    save.write(
      plan,
      lambda path: source.open_leaf(step, f'weights/{path}', leaves[path]),
      pathlib.Path(args.to),
      dtype=args.dtype,
      shard_bytes=int(args.file_gb * 1e9),
      beside=beside,
      progress=progress,
    )
  say(
    f'{args.to} holds step {step} of {args.workdir} as a '
    f'{plan.family.model_type} in {args.dtype}; {loaded_by(plan.family)}.'
  )
  if not beside.files:
    say(
      'No tokenizer is among the files: data.vocab is none that came with a '
      'Hugging Face folder.'
    )
  if plan.dropped:
    say(
      f'Left out: multi-token prediction, for which a {plan.family.model_type} '
      'has no place.'
    )


def loaded_by(family: Family) -> str:
  """A clause on which code can load a family."""
  if family.in_transformers:
    return f'transformers loads it as {family.architecture}'
  return (
    f'transformers has no {family.architecture}, a class of the code that came '
    'with the release'
  )
