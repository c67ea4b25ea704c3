"""The weights with which a stage begins, as a workdir for its `start`."""

import dataclasses
import shutil
from collections.abc import Callable, Mapping

import jax
from etils import epath

from moejax.config import Run, kept_tokenizer
from moejax.convert import upcycle as upcycling
from moejax.core import errors, trees
from moejax.model import build
from moejax.parallel import mesh as meshes
from moejax.run import new_workdir, restore
from moejax.train.parts import Part

Say = Callable[[str], None]


def join(
  run: Run, sources: Mapping[str, str], to: epath.Path, say: Say
) -> None:
  """Makes a workdir of weights of several runs, and of fresh ones.

  Nothing is done where the workdir is there already; a part of one, which a
  kill has left, is made anew.

  Args:
    run: the run that is to begin with them.
    sources: by workdir of a run, the paths of the weights taken from it.
    to: the new workdir.
    say: is called with a line for each source.

  Raises:
    InputError: a path is of no weight that both models have, two sources have
      the same weight, or its shapes differ.
  """
  if (to / restore.CONFIG).exists():
    return
  mesh = meshes.make(meshes.MeshConfig(data=1), jax.devices()[:1])
  target = build.build(run.model, mesh)
  models = {
    workdir: build.build(restore.run_of(workdir).model, mesh)
    for workdir in sources
  }
  taken = _taken(models, sources, target)
  if to.exists():
    shutil.rmtree(to)
  folder = new_workdir.make(str(to))
  fresh = target.init(jax.random.key(run.seed))
  leaves = dict(trees.leaves(fresh))
  for workdir, model in models.items():
    theirs, at = restore.weights(model, workdir, say)
    own = {p: w for p, w in trees.leaves(theirs).items() if p in taken[workdir]}
    leaves |= own
    say(f'{len(own)} arrays of weights are those of {workdir}, step {at}.')
  weights = trees.map_paths(lambda path, _: leaves[path], fresh)
  kept_tokenizer.keep(run.data.vocab, folder, next(iter(sources)))
  new_workdir.save(folder, weights, {'joined': dict(sources)}, say)
  new_workdir.finish(folder, dataclasses.replace(run, start=''))


def upcycle(run: Run, workdir: str, to: epath.Path, say: Say) -> None:
  """Makes a workdir whose experts are copies of a run's dense feed-forwards.

  What is there already is handled as by `join`.

  Args:
    run: the run that is to begin with it.
    workdir: that of the dense model.
    to: the new workdir.
    say: is called with warnings, and with a line at the end.

  Raises:
    InputError: the models differ in more than experts, see `convert.upcycle`.
  """
  if (to / restore.CONFIG).exists():
    return
  if to.exists():
    shutil.rmtree(to)
  folder = new_workdir.make(str(to))
  mesh = meshes.make(meshes.MeshConfig(data=1), jax.devices()[:1])
  source = restore.run_of(workdir).model
  old, at = restore.weights(build.build(source, mesh), workdir, say)
  recipe = upcycling.Upcycling(seed=run.seed % 2**32)
  new = upcycling.upcycle(source, run.model, old, recipe)
  kept_tokenizer.keep(run.data.vocab, folder, workdir)
  new_workdir.save(folder, new, {'upcycled': workdir}, say)
  new_workdir.finish(folder, dataclasses.replace(run, start=''))
  say(f'Its experts are copies of feed-forwards of {workdir}, step {at}.')


def _taken(
  models: Mapping[str, build.Model],
  sources: Mapping[str, str],
  target: build.Model,
) -> dict[str, set[str]]:
  """The paths of the weights that each run gives."""
  ours = trees.leaves(target.shapes)
  taken: dict[str, set[str]] = {}
  origin: dict[str, str] = {}
  for workdir, paths in sources.items():
    theirs = trees.leaves(models[workdir].shapes)
    taken[workdir] = set()
    for pattern in Part(weights=paths).patterns:
      part = Part(weights=pattern)
      both = {path for path in theirs if part.has(path) and path in ours}
      if not both:
        raise errors.InputError(
          f'{workdir} and the model that is to begin with its weights have '
          f'none in common that {pattern!r} names'
        )
      taken[workdir] |= both
    for path in sorted(taken[workdir]):
      if path in origin:
        raise errors.InputError(
          f'{origin[path]} and {workdir} both have the weight {path}: take it '
          'from one of them'
        )
      origin[path] = workdir
      if theirs[path].shape != ours[path].shape:
        raise errors.InputError(
          f'the weight {path} of {workdir} has the shape '
          f'{theirs[path].shape}, and {ours[path].shape} in the model that is '
          'to begin with it'
        )
  return taken
