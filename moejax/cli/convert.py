r"""Hugging Face checkpoints in and out.

  python -m moejax.cli.convert inspect FOLDER
  python -m moejax.cli.convert import FOLDER --workdir=runs/olmoe
  python -m moejax.cli.convert export --workdir=runs/olmoe --to=FOLDER \
    --dtype=bfloat16
  python -m moejax.cli.convert upcycle --workdir=runs/dense --to=runs/moe \
    --config.model.moe.num_experts=8 --config.model.moe.expert_width=11008

FOLDER has config.json and safetensors, or is `owner/name` on the hub, which
needs moejax[hf]. `inspect` says what it holds and what would not fit, and reads
no tensor. An `import` that was stopped, by whatever, goes on with the same
command. A workdir that was imported or upcycled is for `cli.generate`, and for
`--config.start=WORKDIR` of a run with the same model; to train from a FOLDER
see configs/hf/continue.py. All else is in docs/models.md.
"""

import argparse
import collections
import dataclasses
import pathlib
import shutil
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import rich.console
import rich.progress
from etils import epath

from moejax.config import Run, kept_tokenizer
from moejax.convert import companions, load, save, staging, tokenizer, upcycle
from moejax.convert import folder as folders
from moejax.convert.families import FORMS
from moejax.convert.families.family import Family
from moejax.core import command, config_tree, errors, exits, files, table, trees
from moejax.data.config import DataConfig
from moejax.model import build
from moejax.model.config import ModelConfig
from moejax.parallel import mesh as meshes
from moejax.run import restore
from moejax.train import checkpoint, checkpoint_folder


def main(argv: Sequence[str]) -> None:
  """Reads the flags and does it."""
  args, overrides = command.parse(_flags(), argv)
  if overrides and args.run is not _upcycle:
    raise errors.InputError(
      f'--config.{overrides[0][0]} is for upcycle alone; leave it out'
    )
  args.overrides = overrides
  _check_local(args)
  args.run(args)


def _flags() -> argparse.ArgumentParser:
  flags = command.parser(__doc__)
  kinds = flags.add_subparsers(
    required=True, metavar='inspect|import|export|upcycle'
  )
  one = kinds.add_parser('inspect', help='what a folder holds')
  one.add_argument('folder')
  one.set_defaults(run=_inspect)
  one = kinds.add_parser('import', help='a folder to a workdir')
  one.add_argument('folder')
  one.add_argument('--workdir', required=True, help='made; has to be new')
  one.set_defaults(run=_import)
  one = kinds.add_parser('export', help="a workdir's weights to a folder")
  add = one.add_argument
  add('--workdir', required=True, help='of a run, or imported')
  restore.add_step_flag(one)
  add('--to', required=True, help='folder, made; must have no weights')
  add('--family', default='', help=f'one of {", ".join(FORMS)}; default: fits')
  add('--dtype', default='float32', help=', '.join(save.DTYPES))
  more = command.number(float, 1e-9)
  add('--file_gb', type=more, default=5.0, help='size of a file at most')
  one.set_defaults(run=_export)
  one = kinds.add_parser('upcycle', help='a dense model to one with experts')
  add = one.add_argument
  add('--workdir', required=True, help='of a dense run, or imported')
  restore.add_step_flag(one)
  add('--to', required=True, help='workdir, made; has to be new')
  off = argparse.BooleanOptionalAction
  add('--rescale', action=off, default=True, help="experts' outputs")
  add('--groups', action=off, default=True, help='of equal router columns')
  add('--noise', type=float, default=0.0, help='on experts, of their std')
  add('--seed', type=int, default=0, help='of routers and noise')
  one.set_defaults(run=_upcycle)
  return flags


def _check_local(args: argparse.Namespace) -> None:
  """What is written is of this machine: such files are mapped and renamed."""
  name = 'workdir' if args.run is _import else 'to'
  path = getattr(args, name, '')
  if not files.is_local(path):
    raise errors.InputError(
      f'--{name}={path} must be a folder of this machine; copy it there when '
      'it is whole'
    )


def _inspect(args: argparse.Namespace) -> None:
  found = folders.open_folder(args.folder)
  model_type = found.config.get('model_type')
  types = collections.Counter(entry.dtype for entry in found.tensors.values())
  listing = ', '.join(f'{n} of {name}' for name, n in types.most_common())
  num_files = len({entry.file for entry in found.tensors.values()})
  _say(
    f'{found.path}: a {model_type}, {len(found.tensors)} tensors ({listing}), '
    f'{found.num_bytes / 1e9:.2f} GB in {num_files} '
    f'file{"s" if num_files > 1 else ""}.'
  )
  plan = load.plan(found)
  total = sum(tensor.size for tensor in plan.tensors)
  of = plan.config
  _say(
    f'Fits {plan.family.model_type}: {total / 1e6:.1f}M parameters, '
    f'{of.num_layers} layers, {of.num_moe} with {of.moe.num_experts} experts '
    f'(stored {plan.layout}); {4 * total / 1e9:.2f} GB in float32.'
  )
  for line in load.remarks(plan):
    _say(line)
  for key, (_, value) in config_tree.differences(ModelConfig(), of).items():
    _say(f'  model.{key} = {value}')


def _import(args: argparse.Namespace) -> None:
  plan = load.plan(folders.open_folder(args.folder))
  place = pathlib.Path(args.workdir) / staging.NAME
  # A run that has them still was stopped behind its last write.
  workdir = (
    epath.Path(args.workdir) if place.exists() else _new_workdir(args.workdir)
  )
  with files.locked(workdir, _say):
    staged = staging.Staging(place, staging.source(plan))
    if not (workdir / restore.CONFIG).exists():
      run = _run_of(plan, workdir)
      extra = {'imported': args.folder, 'source': staged.digest}
      if not _is_saved(workdir, staged.digest):
        _save(workdir, _read(plan, staged, workdir), extra)
      _name(workdir, run)
    staged.remove()
  _say(f'{workdir} holds the model.')
  for line in load.remarks(plan):
    _say(line)
  lacks = tokenizer.lacking(plan.folder.path)
  if lacks:
    _say(f'{lacks}; prompts are ids: moejax.cli.generate --prompt_ids=1,2,3')


def _run_of(plan: load.ImportPlan, workdir: epath.Path) -> Run:
  """What the workdir is the run of; keeps config and tokenizer as they came."""
  source, place = epath.Path(plan.folder.path), workdir / companions.NAME
  found = {name: source / name for name in companions.names(source)}
  companions.keep(found, place)
  vocab = tokenizer.vocab(place, plan.config.vocab_size)
  file = companions.tokenizer_file(place)
  if file is not None:
    # Wherever the workdir is moved to.
    vocab = dataclasses.replace(vocab, path=f'{companions.NAME}/{file.name}')
  length = min(DataConfig().sequence_length, plan.config.max_length)
  return Run(
    model=plan.config, data=DataConfig(sequence_length=length, vocab=vocab)
  )


def _read(
  plan: load.ImportPlan, staged: staging.Staging, workdir: epath.Path
) -> build.Weights:
  """The weights of a folder, on one device."""
  mesh = meshes.make(meshes.MeshConfig(data=1), jax.devices()[:1])
  model = build.build(plan.config, mesh)
  # Put together, and saved.
  needed = 2 * trees.num_bytes(model.shapes) - staged.num_bytes
  free = shutil.disk_usage(workdir).free
  if free < needed:
    raise errors.InputError(
      f'the disk of {workdir} has {free / 1e9:.1f} GB free, and the import '
      f'needs {needed / 1e9:.1f} GB: twice the weights in float32; make room, '
      'or use another --workdir'
    )
  sizes = {t.name: plan.folder.tensors[t.name].num_bytes for t in plan.tensors}
  rest = [name for name in sizes if not staged.has(name)]
  if len(rest) < len(sizes):
    there = len(sizes) - len(rest)
    _say(f'Going on: {there} of {len(sizes)} tensors are in place.')
  size = sum(sizes[name] for name in rest)
  began = time.monotonic()
  with _Bar('reading', size) as progress:
    weights = load.weights(plan, model, progress, staged)
    staged.flush()
  took = time.monotonic() - began
  rate = size / 1e6 / max(took, 1e-3)
  _say(f'Read {size / 1e9:.2f} GB in {took:.1f} s, {rate:.0f} MB/s; saving.')
  return weights


def _export(args: argparse.Namespace) -> None:
  run = restore.run_of(args.workdir)
  shapes = load.shapes(run.model)
  table.lookup('dtype', save.DTYPES, args.dtype)
  files.check_writable(args.to, '--to')
  vocab = run.data.vocab
  spoken = kept_tokenizer.folder(vocab, args.workdir, run.start)
  was = ''
  if spoken is not None:
    was = companions.read(spoken / folders.CONFIG).get('model_type', '')
  plan = save.plan(run.model, shapes, args.family, was)
  if spoken is None:
    beside = companions.of_vocab(vocab)
  else:
    beside = companions.of_folder(spoken, vocab)
  place = epath.Path(args.workdir) / restore.CHECKPOINTS
  with (
    checkpoint.Checkpointer(place, warn=_note) as checkpoints,
    _Bar('writing', plan.num_bytes(args.dtype)) as progress,
  ):
    step, _ = checkpoints.find(args.step)
    leaves = trees.leaves(shapes)
    save.write(
      plan,
      lambda path: checkpoints.open_leaf(step, f'weights/{path}', leaves[path]),
      pathlib.Path(args.to),
      dtype=args.dtype,
      shard_bytes=int(args.file_gb * 1e9),
      beside=beside,
      progress=progress,
    )
  _say(
    f'{args.to} holds step {step} of {args.workdir} as a '
    f'{plan.family.model_type} in {args.dtype}; {_loaded(plan.family)}.'
  )
  if not beside.files:
    _say(
      'No tokenizer is among the files: data.vocab is none that came with a '
      'Hugging Face folder.'
    )
  if plan.dropped:
    _say(
      f'Left out: multi-token prediction, for which a {plan.family.model_type} '
      'has no place.'
    )


def _loaded(family: Family) -> str:
  """Who loads what is written."""
  if family.in_transformers:
    return f'transformers loads it as {family.architecture}'
  return (
    f'transformers has no {family.architecture}, a class of the code that came '
    'with the release'
  )


def _upcycle(args: argparse.Namespace) -> None:
  run = restore.run_of(args.workdir)
  source = run.model
  run = config_tree.override_all(run, args.overrides)
  run.model.check()
  mesh = meshes.make(meshes.MeshConfig(data=1), jax.devices()[:1])
  dense = build.build(source, mesh)
  recipe = upcycle.Upcycling(args.rescale, args.groups, args.noise, args.seed)
  target = _new_workdir(args.to)
  with files.locked(target, _say):
    old, step = restore.weights(dense, args.workdir, _note, step=args.step)
    new = upcycle.upcycle(source, run.model, old, recipe)
    kept_tokenizer.keep(run.data.vocab, target, args.workdir)
    _save(target, new, {'upcycled': args.workdir})
    _name(target, run)
  moe = run.model.moe
  _say(
    f'{target} holds step {step} of {args.workdir} with {moe.num_experts} '
    f'experts of width {moe.expert_width} and {moe.num_shared} shared.'
  )


def _new_workdir(path: str) -> epath.Path:
  """A workdir without a run, made if need be."""
  workdir = epath.Path(path)
  if (workdir / restore.CONFIG).exists():
    raise errors.InputError(
      f'{workdir} is the workdir of a run already; take another'
    )
  files.check_writable(workdir)
  return workdir


def _is_saved(workdir: epath.Path, digest: str) -> bool:
  """Whether the weights of that source were saved, and are whole."""
  place = workdir / restore.CHECKPOINTS
  # What a save that was killed has left takes the room of the next.
  checkpoint_folder.CheckpointFolder(place, _note).clean()
  with checkpoint.Checkpointer(place, warn=_note) as checkpoints:
    found = checkpoints.latest()
  return found is not None and found[1].get('source') == digest


def _save(workdir: epath.Path, weights: Any, extra: dict[str, Any]) -> None:
  place = workdir / restore.CHECKPOINTS
  with checkpoint.Checkpointer(place, warn=_note) as checkpoints:
    checkpoints.save(0, {'weights': weights}, extra)


def _name(workdir: epath.Path, run: Run) -> None:
  """Makes it the workdir of a run; the last, since one that is is whole."""
  files.atomic_write_json(workdir / restore.CONFIG, config_tree.to_dict(run))


class _Bar:
  """A progress bar on stderr, where somebody watches."""

  def __init__(self, what: str, total: int):
    console = rich.console.Console(file=sys.stderr)
    self._bar = rich.progress.Progress(
      rich.progress.TextColumn(what),
      rich.progress.BarColumn(),
      rich.progress.DownloadColumn(),
      rich.progress.TransferSpeedColumn(),
      console=console,
      disable=not console.is_terminal,
    )
    self._task = self._bar.add_task(what, total=total)

  def __enter__(self) -> Callable[[int], None]:
    self._bar.start()
    return lambda done: self._bar.advance(self._task, done)

  def __exit__(self, *unused: object) -> None:
    self._bar.stop()


def _say(line: str) -> None:
  print(line)


def _note(line: str) -> None:
  print(line, file=sys.stderr)


if __name__ == '__main__':
  exits.main(main)
