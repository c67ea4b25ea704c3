"""The results of a study: resumable parts, slopes, and one JSON file.

A folder has `request.json`, which says what was asked; CASE/n=SIZE.json, the
trials of one size; and at the end `results.json` and the figure. A part that
exists is not computed again.
"""

import dataclasses
import functools
import json
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from moejax.core import errors, files
from moejax.research.expert_estimation import (
  projection,
  slopes,
  theorems,
  trials,
)
from moejax.research.expert_estimation.studies import Case, Study
from moejax.research.expert_estimation.trials import FAILED, Request
from moejax.research.expert_estimation.truths import Truth

REQUEST, RESULTS = 'request.json', 'results.json'
Say = Callable[[str], None]


def collect(
  study: Study,
  request: Request,
  folder: pathlib.Path,
  say: Say,
  done: Callable[[], None] = lambda: None,
) -> dict[str, Any]:
  """Runs what is missing of a study, and writes `results.json`.

  Args:
    study: its cases.
    request: what is asked of them.
    folder: where the parts are.
    say: takes a line about each trial that failed.
    done: called after each part.

  Returns:
    What `results.json` holds.

  Raises:
    InputError: the folder holds another request's parts or damaged ones, or is
      not writable.
  """
  files.check_writable(folder, '--out')
  same_request(_asked(study, request), folder)
  cases = {}
  for name, case in study.cases.items():
    case.check_sizes([*request.sizes])
    (folder / name).mkdir(exist_ok=True)
    parts = {}
    reference: Truth | None = None
    for size in request.sizes:
      path = folder / name / f'n={size}.json'
      if not path.exists():
        if reference is None:
          reference = compared_with(case, request, folder / name)
        part = trials.run(case, truth_key(case), size, request, reference)
        files.atomic_write_json(path, part)
      parts[size] = kept(path, 'rows')
      for row in parts[size]['rows']:
        if FAILED in row:
          say(f'{name}, n={size}, trial {row["trial"]}: {row[FAILED]}')
      done()
    cases[name] = summary(case, parts, request.seed)
  found = {'request': _asked(study, request), 'cases': cases}
  files.atomic_write_json(folder / RESULTS, found)
  return found


def kept(path: pathlib.Path, *keys: str) -> dict[str, Any]:
  """A part as an earlier run of the command wrote it.

  Args:
    path: of the part.
    keys: of its lists.

  Raises:
    InputError: the file is no such part.
  """
  part = _read(path)
  if part is None or not all(isinstance(part.get(key), list) for key in keys):
    raise errors.InputError(
      f'{path} is damaged: it is no result of this command; delete the file, '
      'and the same command computes it again'
    )
  return part


def _read(path: pathlib.Path) -> dict[str, Any] | None:
  """The object in a JSON file; None if it holds something else."""
  try:
    value = json.loads(path.read_text(encoding='utf-8'))
  except ValueError:
    return None
  return value if isinstance(value, dict) else None


def truth_key(case: Case) -> str:
  """A name of the case's truth: cases with an equal one share their samples."""
  truth = case.truth
  leaves = [
    np.asarray(leaf).round(12).tolist()
    for leaf in dataclasses.asdict(truth.params).values()
    if not isinstance(leaf, Mapping)
  ]
  gate = {k: np.asarray(v).tolist() for k, v in truth.params.gate.items()}
  return f'{truth.model} {sorted(gate.items())} {leaves} {truth.noise}'


def compared_with(case: Case, request: Request, folder: pathlib.Path) -> Truth:
  """The truth, or its projection on the model, whose account is kept."""
  reference, account = nearest(case, request)
  if account is not None:
    files.atomic_write_json(folder / 'projection.json', account)
  return reference


def nearest(
  case: Case, request: Request
) -> tuple[Truth, dict[str, Any] | None]:
  """What the losses of a case compare with, and how it was found.

  Args:
    case: the case.
    request: of which the seed and the optimiser decide the projection.

  Returns:
    The truth and None; or, of a case that is `projected`, the truth's form with
    the parameters of the nearest model, and an account of the projection.
  """
  if not case.projected:
    return case.truth, None
  found = projection.project(
    case.model, case.truth, seed=request.seed, settings=request.optimiser
  )
  account = {
    'divergence': found.divergence,
    'converged': found.converged,
    'agreeing_starts': found.agreeing,
    'starts': found.starts,
    'gate': {k: v.tolist() for k, v in found.params.gate.items()},
    'routed': found.params.routed_EP.tolist(),
    'variance': np.exp(found.params.log_variance_E).tolist(),
  }
  # Shared experts are estimated without it: they are compared with the truth.
  params = dataclasses.replace(
    found.params,
    shared_SQ=case.truth.params.shared_SQ,
    shared_log_variance_S=case.truth.params.shared_log_variance_S,
    shared_logit_S=case.truth.params.shared_logit_S,
  )
  model = dataclasses.replace(
    case.model, num_shared=case.truth.model.num_shared
  )
  reference = dataclasses.replace(case.truth, model=model, params=params)
  return reference, account


def summary(
  case: Case, parts: Mapping[int, Mapping[str, Any]], seed: int
) -> dict[str, Any]:
  """Means, slopes and convergence of one case, ready for JSON."""
  sizes = [*parts]
  theorem = theorems.THEOREMS.get(case.theorem)
  good = [[r for r in parts[n]['rows'] if FAILED not in r] for n in sizes]
  rows = [parts[n]['rows'] for n in sizes]
  share = lambda flags: float(np.mean(flags)) if len(flags) else 0.0
  loss = lambda row: sum(row['terms'].values())
  names = lambda key: [
    *dict.fromkeys(n for g in good for r in g for n in r[key])
  ]
  series: dict[str, Callable[[Mapping[str, Any]], float]] = {
    'loss': loss,
    'distance': lambda row: row['distance'],
  }
  for key in ('terms', 'errors'):
    for name in names(key):
      series[f'{key}.{name}'] = _entry(key, name)
  return {
    'loss': case.loss,
    'theorem': theorem.source if theorem else None,
    'rates': theorem.rates if theorem else None,
    'theory': theorems.RATE if theorem else None,
    'published': case.published,
    'estimator': case.estimator,
    'sizes': sizes,
    'converged': [share([r['converged'] for r in g]) for g in rows],
    'failed': [sum(FAILED in r for r in g) for g in rows],
    'iterations': [share([r['iterations'] for r in g]) for g in rows],
    'later_restart_won': [share([r['restart'] > 0 for r in g]) for g in rows],
    'seconds': sum(parts[n]['seconds'] for n in sizes),
    'processor_seconds': sum(
      parts[n].get('processor_seconds', 0.0) for n in sizes
    ),
    'series': {
      name: measured(sizes, [[f(r) for r in g] for g in good], seed)
      for name, f in series.items()
    },
  }


def _entry(key: str, name: str) -> Callable[[Mapping[str, Any]], float]:
  """What a row has under two keys; NaN for nothing."""
  return lambda row: row[key].get(name, np.nan)


def measured(
  sizes: list[int], values: list[list[float]], seed: int
) -> dict[str, Any]:
  """Mean, deviation and median at each size, and slopes where they exist.

  The slope of the medians tells how most trials fare where a few, whose fits
  ran away, decide the means.
  """
  known = [np.asarray(v, float)[np.isfinite(v)] for v in values]
  some = [i for i, v in enumerate(known) if len(v) and v.mean() > 0]
  slope = median_slope = None
  if len(some) > 1:
    width = max(len(known[i]) for i in some)
    table = np.full((len(some), width), np.nan)
    for row, i in zip(table, some, strict=True):
      row[: len(known[i])] = known[i]
    fit = functools.partial(slopes.fit, np.array(sizes)[some], table, seed)
    slope = dataclasses.asdict(fit())
    if all(np.median(known[i]) > 0 for i in some):
      median_slope = dataclasses.asdict(fit(middle=np.median))
  mean = [float(v.mean()) if len(v) else None for v in known]
  spread = [float(v.std(ddof=1)) if len(v) > 1 else None for v in known]
  return {
    'mean': mean,
    'deviation': spread,
    'median': [float(np.median(v)) if len(v) else None for v in known],
    'slope': slope,
    'median_slope': median_slope,
  }


def _asked(study: Study, request: Request) -> dict[str, Any]:
  """What decides the results: the request, models, truths and losses."""
  cases = {
    name: f'{case.model} {case.loss} {truth_key(case)}'
    + (' from the projection' if case.projected else '')
    for name, case in study.cases.items()
  }
  return {**_plain(dataclasses.asdict(request)), 'cases': cases}


def _plain(tree: Any) -> Any:
  """A tree as JSON gives it back."""
  return json.loads(json.dumps(tree))


def same_request(asked: Mapping[str, Any], folder: pathlib.Path) -> None:
  """Writes a request, or compares it with the one that is there.

  Args:
    asked: all that decides the results, as JSON gives it back.
    folder: where the results go.

  Raises:
    InputError: they differ, or the folder holds other files.
  """
  path = folder / REQUEST
  if not path.exists():
    if others := sorted(p.name for p in folder.iterdir()):
      raise errors.InputError(
        f'--out={folder} holds other files, such as {others[0]!r}; choose an '
        'empty folder'
      )
    files.atomic_write_json(path, asked)
    return
  before = _read(path)
  if before is None:
    raise errors.InputError(
      f'{path} is damaged: it is not what was asked of a study; choose another '
      '--out, or delete the folder'
    )
  for key in asked:
    if before.get(key) != asked[key]:
      values = '' if key == 'cases' else f': {before.get(key)} there'
      raise errors.InputError(
        f'--out={folder} holds a study with other {key}{values}; choose '
        'another --out, or the flags of that study'
      )
