"""Makes a workdir from a Hugging Face folder."""

import dataclasses
import pathlib
import shutil
import time
from collections.abc import Callable

import jax
from etils import epath

from moejax.config import Run
from moejax.convert import companions, load, staging, tokenizer, whole
from moejax.convert import folder as folders
from moejax.core import errors, files, trees
from moejax.core.byte_bar import byte_bar
from moejax.data.config import DataConfig
from moejax.model import build
from moejax.parallel import mesh as meshes
from moejax.run import new_workdir, restore
from moejax.train import checkpoint, checkpoint_folder

Say = Callable[[str], None]


def import_folder(folder: str, path: str, say: Say, note: Say) -> None:
  """Makes a workdir from a folder; an interrupted import goes on.

  Args:
    folder: a folder, or `owner/name` on the hub.
    path: path of the workdir.
    say: is called with lines on the progress and the result.
    note: is called with warnings.

  Raises:
    InputError: the model of the folder is not supported, the disk has too
      little room, or the workdir is that of a run.
  """
  plan = whole.plan(folders.open_folder(folder))
  config_of(plan)  # its errors come before any tensor is read
  place = pathlib.Path(path) / staging.NAME
  # Staged tensors are removed last: where some are left, an import was
  # interrupted.
  workdir = epath.Path(path) if place.exists() else new_workdir.make(path)
  with files.locked(workdir, say):
    staged = staging.Staging(place, staging.source(plan))
    if not (workdir / restore.CONFIG).exists():
      run = run_of(plan, workdir)
      extra = {'imported': folder, 'source': staged.digest}
      if not _is_saved(workdir, staged.digest, note):
        weights = _read(plan, staged, workdir, say)
        new_workdir.save(workdir, weights, extra, note)
      new_workdir.finish(workdir, run)
    staged.remove()
  say(f'{workdir} holds the model.')
  for line in load.remarks(plan):
    say(line)
  lacks = tokenizer.lacking(plan.folder.path)
  if lacks:
    say(f'{lacks}; prompts are ids: moejax generate --prompt_ids=1,2,3')


def run_of(plan: load.ImportPlan, workdir: epath.Path) -> Run:
  """The config of the workdir; copies config.json and tokenizer into it."""
  source, place = epath.Path(plan.folder.path), workdir / companions.NAME
  originals = {name: source / name for name in companions.names(source)}
  companions.keep(originals, place)
  run = config_of(plan)
  vocab = tokenizer.vocab(place, plan.config.vocab_size)
  file = companions.tokenizer_file(place)
  if file is not None:
    # A relative path, so that the workdir can be moved.
    vocab = dataclasses.replace(vocab, path=f'{companions.NAME}/{file.name}')
  data = dataclasses.replace(run.data, vocab=vocab)
  return dataclasses.replace(run, data=data)


def config_of(plan: load.ImportPlan) -> Run:
  """The config of a folder's model, with the tokenizer of the folder."""
  vocab = tokenizer.vocab(plan.folder.path, plan.config.vocab_size)
  length = min(DataConfig().sequence_length, plan.config.max_length)
  images = whole.images_of(plan, vocab)
  data = DataConfig(sequence_length=length, vocab=vocab, images=images)
  return Run(model=plan.config, data=data)


def _read(
  plan: load.ImportPlan, staged: staging.Staging, workdir: epath.Path, say: Say
) -> build.Weights:
  """The weights of a folder, on one device."""
  mesh = meshes.make(meshes.MeshConfig(data=1), jax.devices()[:1])
  model = build.build(plan.config, mesh)
  # Both the staged tensors and the checkpoint are on the disk at the end.
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
    staged_before = len(sizes) - len(rest)
    say(f'Going on: {staged_before} of {len(sizes)} tensors are in place.')
  size = sum(sizes[name] for name in rest)
  began = time.monotonic()
  with byte_bar('reading', size) as progress:
    weights = load.weights(plan, model, progress, staged)
    staged.flush()
  took = time.monotonic() - began
  rate = size / 1e6 / max(took, 1e-3)
  say(f'Read {size / 1e9:.2f} GB in {took:.1f} s, {rate:.0f} MB/s; saving.')
  return weights


def _is_saved(workdir: epath.Path, digest: str, note: Say) -> bool:
  """Whether the newest whole checkpoint has the weights of that source."""
  place = workdir / restore.CHECKPOINTS
  # The remains of a save that was killed would take the room of the next.
  checkpoint_folder.CheckpointFolder(place, note).clean()
  with checkpoint.Checkpointer(place, warn=note) as checkpoints:
    latest = checkpoints.latest()
  return latest is not None and latest[1].get('source') == digest
