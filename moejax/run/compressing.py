"""Makes a workdir of a model with fewer experts from that of the full model.

calibrate   statistics of the experts on a text
choose      which of them stay, by an entry of METHODS
apply       the others are removed, or merged into these
write       the new workdir, with `compression.json`: what was made from what
"""

import contextlib
import dataclasses
import json
import pathlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from etils import epath

from moejax.compress import even, methods, prune
from moejax.compress.merge import MergedLayer
from moejax.compress.methods import Method, Selection
from moejax.compress.prune import Smaller
from moejax.config import kept_tokenizer
from moejax.convert import save
from moejax.core import errors, files, table, trees, versions
from moejax.evals.subject import Track, untracked
from moejax.run import (
  calibrating,
  calibration_text,
  exporting,
  full_model,
  new_workdir,
  restore,
  trace_files,
  trained,
)
from moejax.run.calibrating import Calibration
from moejax.run.calibration_text import Collected
from moejax.run.full_model import FullModel, SmallerLeaf
from moejax.run.trained import Trained

MANIFEST = 'compression.json'  # in the new workdir

Note = Callable[[str], None]


@dataclasses.dataclass(frozen=True)
class CompressionRequest:
  """What is asked of one model; the fields are flags of `cli.compress`.

  Attributes:
    method: name in METHODS.
    keep: experts of each layer; the average over layers for some methods.
    calibration: the text that matters, and the checkpoint.
    domains: NAME=WEIGHT, comma separated; '' counts all domains alike.
    statistics: folder of statistics, which are read from it if it has some and
      kept in it otherwise; '' for none.
    any_text: whether statistics that were kept are used whatever their text.
    seed: of scores that are drawn.
    removed: whether the weights of the other experts are removed; a mask leaves
      the groups of a router as they are, so they may keep different numbers.
  """

  method: str
  keep: int
  calibration: Calibration = Calibration()
  domains: str = ''
  statistics: str = ''
  any_text: bool = False
  seed: int = 0
  removed: bool = True


@dataclasses.dataclass(frozen=True)
class Choice:
  """A choice of experts, and what it was made with.

  Attributes:
    request: what was asked.
    method: the entry of METHODS.
    collected: the statistics.
    selection: the experts that stay.
  """

  request: CompressionRequest
  method: Method
  collected: Collected
  selection: Selection


def compress(
  workdir: str,
  to: str,
  request: CompressionRequest,
  overrides: Sequence[tuple[str, str]] = (),
  *,
  note: Note = lambda _: None,
  track: Track = untracked,
) -> dict[str, Any]:
  """Makes a workdir of a model with fewer experts.

  Args:
    workdir: of the run, or of an imported model.
    to: the new workdir.
    request: what is asked.
    overrides: config keys to change, as dotted paths and texts.
    note: is called with lines on the progress.
    track: shows the progress through batches and layers.

  Returns:
    The content of the new workdir's `compression.json`.

  Raises:
    InputError: see `choose`; or `to` is a folder with files.
  """
  check_new(to)
  with _opened(workdir, request, overrides, note) as (opened, full, at):
    chosen = choose(opened, full, at, request, note, track)
    smaller, merged = full.smaller(chosen.method, chosen.selection, track)
    target = new_workdir.make(to)
    with files.locked(target, note):
      about = manifest(workdir, full, chosen, smaller, merged)
      _write(target, workdir, full, smaller, about, note)
  if full.config.mtp_layers:
    note(
      'Left out: multi-token prediction, whose layers would need statistics of '
      'their own.'
    )
  return about


def export(
  workdir: str,
  to: str,
  request: CompressionRequest,
  overrides: Sequence[tuple[str, str]] = (),
  *,
  dtype: str = 'float32',
  note: Note = lambda _: None,
  track: Track = untracked,
) -> dict[str, Any]:
  """Writes a model with fewer experts as a Hugging Face folder, layer by layer.

  No workdir is made, and of experts that are removed one layer is in memory at
  a time. Arguments and result are those of `compress`: `to` is the folder,
  which gets `compression.json` as well, and `dtype` the type of its weights. A
  further error is that no family of Hugging Face can hold the model.
  """
  files.check_local(to, '--export')
  check_new(to, '--export')
  table.lookup('dtype', save.DTYPES, dtype)  # before anything is computed
  args = exporting.Export(workdir, to, request.calibration.step, dtype=dtype)
  with _opened(workdir, request, overrides, note) as (opened, full, at):
    _check_format(args, full, request)  # likewise
    chosen = choose(opened, full, at, request, note, track)
    smaller, merged = full.smaller(chosen.method, chosen.selection, track)
    target = exporting.plan_of(args, smaller.config)
    target.write(lambda path: SmallerLeaf(smaller, path, full.get(path)))
    about = manifest(workdir, full, chosen, smaller, merged)
  # Of the written type.
  about['bytes'][1] = target.plan.num_bytes(dtype)
  copies = repeated(smaller, merged, chosen.method)[0]
  about['repeated_bytes'] = copies * save.DTYPES[dtype].itemsize
  files.atomic_write_json(epath.Path(to) / MANIFEST, about)
  for line in target.remarks():
    note(line)
  return about


def write_mask(
  workdir: str,
  path: str,
  request: CompressionRequest,
  overrides: Sequence[tuple[str, str]] = (),
  *,
  note: Note = lambda _: None,
  track: Track = untracked,
) -> np.ndarray:
  """Writes a choice of experts as JSON: 1 for an expert that stays, or 0.

  A list for each layer with experts, as EASY-EP (arXiv 2504.06792) publishes
  its masks. Arguments and errors are those of `compress`, with a file that must
  not exist in place of `to`.

  Returns:
    kept_NE, bool.
  """
  files.check_output(path, '--mask')
  if epath.Path(path).exists():
    raise errors.InputError(f'--mask={path} exists; name another file')
  request = dataclasses.replace(request, removed=False)
  with _opened(workdir, request, overrides, note) as (opened, full, at):
    chosen = choose(opened, full, at, request, note, track)
    kept_NE = chosen.selection.kept_NE
  rows = [json.dumps(kept_E.astype(int).tolist()) for kept_E in kept_NE]
  files.atomic_write_text(path, '[' + ',\n '.join(rows) + ']\n')
  return kept_NE


@contextlib.contextmanager
def _opened(
  workdir: str,
  request: CompressionRequest,
  overrides: Sequence[tuple[str, str]],
  note: Note,
) -> Iterator[tuple[Trained, FullModel, int]]:
  """The model of a workdir, while its files are open, and its step."""
  opened = trained.open_trained(workdir, overrides, trace_files.USED)
  step = request.calibration.step
  with full_model.opened(opened, step, note) as (full, at):
    yield opened, full, at


def _check_format(
  args: exporting.Export, full: FullModel, request: CompressionRequest
) -> None:
  """Raises InputError if no Hugging Face family can hold the smaller model."""
  config = full.expected(methods.lookup(request.method), request.keep)
  if config.moe.experts_by_layer and even.path_of_bias(config) is None:
    raise errors.InputError(
      f'--method={request.method} --keep={request.keep} may keep different '
      f'numbers of experts in the layers, {even.NO_PLACE}; take a method that '
      'keeps the same number in every layer, or make a workdir with --to'
    )
  exporting.plan_of(args, config)


def choose(
  opened: Trained,
  full: FullModel,
  step: int,
  request: CompressionRequest,
  note: Note,
  track: Track,
) -> Choice:
  """Calibrates a model, or reads statistics, and chooses experts.

  Args:
    opened: the model.
    full: the same, read from its checkpoint in pieces.
    step: of the checkpoint.
    request: what is asked.
    note: is called with lines on the progress.
    track: shows the progress through batches.

  Raises:
    InputError: an unknown method or domain, a number of experts that cannot be
      kept, a text that is empty or of another tokenizer, statistics of another
      checkpoint, or a model no expert of which can be removed.
  """
  method = methods.lookup(request.method)
  # Before anything is computed.
  if request.removed:
    full.expected(method, request.keep)
  else:
    full.needs(method, request.keep, removed=False)
  calibrating.check_model(full.config)
  collector = calibration_text.Collector(
    opened=opened,
    calibration=dataclasses.replace(
      request.calibration, outputs=method.needs_outputs
    ),
    domains=request.domains,
    folder=request.statistics,
    half=False,
    note=note,
    track=track,
  )
  collected = collector.collect(
    lambda: opened.weights(str(step), note)[0], step, any_text=request.any_text
  )
  selection = full.select(
    method, request.keep, collected, request.seed, removed=request.removed
  )
  return Choice(request, method, collected, selection)


def check_new(to: str, flag: str = '--to') -> None:
  """Raises InputError if a new folder cannot be made; makes nothing."""
  folder = epath.Path(to)
  if folder.is_dir() and any(folder.iterdir()):
    raise errors.InputError(
      f'{flag}={to} is a folder with files; name one that does not exist, or '
      'remove it if a command that was stopped left it'
    )
  if folder.exists() and not folder.is_dir():
    raise errors.InputError(f'{flag}={to} is a file; name a folder')
  if files.is_local(to):
    parents = pathlib.Path(to).absolute().parents
    above = next(parent for parent in parents if parent.exists())
    files.check_writable(above, f'{flag}={to} cannot be made: the folder')


def manifest(
  workdir: str,
  full: FullModel,
  chosen: Choice,
  smaller: Smaller,
  merged: Sequence[MergedLayer],
) -> dict[str, Any]:
  """What a smaller model was made from, and how, as JSON."""
  request, collected = chosen.request, chosen.collected
  kinds = enumerate(full.config.kinds)
  numbers = [number for number, kind in kinds if kind == 'moe']
  kept_NE = chosen.selection.kept_NE
  layers: list[dict[str, Any]] = []
  for n, kept_E in enumerate(kept_NE):
    layer = {'layer': numbers[n], 'kept': np.flatnonzero(kept_E).tolist()}
    if merged:
      # By old expert, the old number of the one that it was merged into.
      layer['into'] = merged[n].dominant_G[merged[n].index_E].tolist()
    layers.append(layer)
  return {
    'from': workdir,
    'step': collected.step,
    'checkpoint': collected.checkpoint,
    'method': request.method,
    'steps': dataclasses.asdict(chosen.method),
    'keep': request.keep,
    'seed': request.seed,
    'domains': {
      name: {'weight': weight, 'tokens': collected.statistics[name].tokens}
      for name, weight in collected.domain_weights.items()
    },
    'text': collected.text,
    'experts': [full.config.moe.num_experts, smaller.config.moe.num_experts],
    'parameters': [
      trees.count(full.shapes),
      num_distinct(smaller, merged, chosen.method),
    ],
    'bytes': [
      trees.num_bytes(full.shapes),
      trees.num_bytes(smaller.shapes),
    ],
    'repeated_bytes': repeated(smaller, merged, chosen.method)[1],
    'layers': layers,
    'versions': versions.versions(),
  }


def num_distinct(
  smaller: Smaller, merged: Sequence[MergedLayer], method: Method
) -> int:
  """Parameters, without what `repeated` counts."""
  return trees.count(smaller.shapes) - repeated(smaller, merged, method)[0]


def repeated(
  smaller: Smaller, merged: Sequence[MergedLayer], method: Method
) -> tuple[int, int]:
  """Parameters that a checkpoint stores and nobody needs, and their bytes.

  These are the further copies of an expert that the members of a group share,
  and the experts of zeros that layers with fewer experts have.
  """
  parameters, num_bytes = 0, 0
  leaves = trees.leaves(smaller.shapes)
  for n, index_K in enumerate(smaller.index_NK):
    copies = int((index_K < 0).sum())
    if method.shared_router:
      copies = len(merged[n].index_E) - len(merged[n].dominant_G)
    for path, leaf in leaves.items():
      if path.startswith(f'{prune.PREFIX}routed/'):
        size = copies * int(np.prod(leaf.shape[2:]))
        parameters += size
        num_bytes += size * leaf.dtype.itemsize
  return parameters, num_bytes


def _write(
  target: epath.Path,
  workdir: str,
  full: FullModel,
  smaller: Smaller,
  about: Mapping[str, Any],
  note: Note,
) -> None:
  """Writes the new workdir; its config is last, and marks it as one."""
  run = restore.run_of(workdir)
  note(f'Writing {target} ...')
  weights = smaller.tree(full.get)
  run = dataclasses.replace(run, model=smaller.config, start='')
  run = dataclasses.replace(run, start_step='newest')
  kept_tokenizer.keep(run.data.vocab, target, workdir)
  extra = {key: about[key] for key in ('from', 'step', 'method', 'keep')}
  new_workdir.save(target, weights, {'compressed': extra}, note)
  files.atomic_write_json(target / MANIFEST, about)
  new_workdir.finish(target, run)
