"""The trace files of a run, one for each of some checkpoints.

  WORKDIR/traces/00000000.parquet
  WORKDIR/traces/00000500.parquet

A file of the same request is kept, so that an interrupted call goes on with the
next checkpoint.
"""

import dataclasses
import hashlib
import json
import pathlib
from collections.abc import Callable, Sequence
from typing import Any

from etils import epath

from moejax.analysis import trace_file
from moejax.analysis.trace_file import Header
from moejax.config import Run
from moejax.core import config_tree, errors, files, resume
from moejax.evals.subject import Track, untracked
from moejax.model.build import Model
from moejax.run import data_progress, restore, traced_text, tracing, trained
from moejax.run.traced_text import TracedText

FOLDER = 'traces'  # of a workdir
# Key of a request: the run wrote the trace itself (run/training_traces.py).
WHILE_TRAINING = 'while_training'
# Prefixes of the config keys that change a trace.
USED = ('model.', 'mesh.', 'data.')

Note = Callable[[str], None]


@dataclasses.dataclass(frozen=True)
class TraceRequest:
  """What is traced.

  Attributes:
    checkpoints: which; see `RunCheckpoints.choose`.
    files: the user's own files; see `traced_text.open_text`.
    mixture: name of a mixture or task; see there.
    tokens: about how many of the text; 0 for all.
    logits: whether the router's logits are traced as well.
  """

  checkpoints: str = 'last'
  files: str | None = None
  mixture: str | None = None
  tokens: int = 0
  logits: bool = False


def trace_run(
  workdir: str,
  request: TraceRequest,
  overrides: Sequence[tuple[str, str]] = (),
  *,
  out: str | None = None,
  track: Track = untracked,
  note: Note = lambda _: None,
) -> list[pathlib.Path]:
  """Writes a trace file for each of some checkpoints, or keeps it.

  Args:
    workdir: of the run, or of an imported model.
    request: what is traced.
    overrides: config keys to change, as dotted paths and texts.
    out: folder of the files; None for the folder `traces` of the workdir.
    track: shows the progress through the batches of a domain.
    note: is called with a line before each thing that takes long.

  Returns:
    The files, in the order of their steps.

  Raises:
    InputError: there is no such checkpoint, the text cannot be read, the model
      has no experts, or there is a file of another request.
    StoppedError: the disk is full.
  """
  opened = trained.open_trained(workdir, overrides, USED)
  tracing.layers_of(opened.model)
  folder = _folder(workdir, out)
  with restore.checkpoints(workdir, note) as saved:
    steps = saved.choose(request.checkpoints)
    extras = {step: saved.find(str(step)).extra for step in steps}
  text = traced_text.open_text(
    opened.run.data,
    data_progress.lines(note),
    note,
    files=request.files,
    mixture=request.mixture,
    tokens=request.tokens,
  )
  paths = {}
  for step, extra in extras.items():
    path = folder / f'{step:08d}.parquet'
    header = header_of(
      restore.run_of(workdir),
      opened.model,
      text,
      step,
      extra,
      logits=request.logits,
    )
    # All files are looked at before any checkpoint is traced.
    if out is None:
      remove_unlike(folder, header)
    paths[path] = header, _is_there(path, header)
  for path, (header, is_there) in paths.items():
    if is_there:
      note(f'{path} is there already')
      continue
    note(f'Tracing step {header.step} (about {text.num_tokens:,} tokens) ...')
    weights, _ = opened.weights(str(header.step), note)
    traces = tracing.trace(
      opened.model,
      weights,
      text,
      step=header.step,
      tokens_seen=header.tokens_seen,
      logits=request.logits,
      track=track,
    )
    tracing.write(path, header, traces)
  return [*paths]


def _folder(workdir: str, out: str | None) -> pathlib.Path:
  """The folder of the trace files, made if it does not exist."""
  folder = epath.Path(workdir) / FOLDER if out is None else epath.Path(out)
  if not files.is_local(folder):
    raise errors.InputError(
      f'traces are written to a folder of this machine, and {folder} is not '
      'one: name one with --out'
    )
  files.check_writable(folder, '--out' if out else 'folder')
  return pathlib.Path(folder)


def header_of(
  run: Run,
  model: Model,
  text: TracedText,
  step: int,
  extra: dict[str, Any],
  *,
  logits: bool = False,
  while_training: bool = False,
) -> Header:
  """What a trace file says of itself.

  Args:
    run: the config in the workdir.
    model: the network that is traced.
    text: the rows.
    step: of the checkpoint.
    extra: the JSON of the checkpoint, with `tokens`.
    logits: whether the router's logits are traced as well.
    while_training: whether the run wrote the trace itself.
  """
  router = config_tree.flatten(model.config.moe)
  own = {WHILE_TRAINING: True} if while_training else {}
  return Header(
    step=step,
    tokens_seen=sum(extra.get('tokens', {}).values()),
    layers=tracing.layers_of(model),
    num_experts=model.config.moe.num_choices,
    in_use=tracing.choices_of(model),
    domains=tuple(text.readers),
    tokenizer=text.tokenizer,
    model=fingerprint(run, model, extra),
    router=json.loads(json.dumps(router)),
    request={'text': text.request, 'logits': logits, **own},
  )


def remove_unlike(folder: pathlib.Path, header: Header) -> None:
  """Removes the traces that a run wrote while training, if they are of others.

  They would stand beside traces of another text or model, with which they
  cannot be compared. Traces that a user has asked for stay.
  """
  same = lambda h: json.loads(
    json.dumps([h.model, h.request['text'], h.request['logits']])
  )
  for path in folder.glob('*.parquet'):
    old = trace_file.TraceFile(path).header
    if old.request.get(WHILE_TRAINING) and same(old) != same(header):
      path.unlink()


def fingerprint(run: Run, model: Model, extra: dict[str, Any]) -> str:
  """Identifies a run: it differs if the weights of a step may differ.

  Args:
    run: the config in the workdir.
    model: the network, whose config may have other keys than `run.model`.
    extra: the JSON of a checkpoint, with the digest of an imported folder.
  """
  run = dataclasses.replace(run, model=model.config)
  keys = {
    path: value
    for path, value in config_tree.flatten(run).items()
    if resume.effect_of(run, path) in (resume.RESULT, resume.CHOSEN)
  }
  text = json.dumps([keys, extra.get('source')], sort_keys=True)
  return hashlib.sha256(text.encode()).hexdigest()[:16]


def _is_there(path: pathlib.Path, header: Header) -> bool:
  """Whether the trace exists already.

  Raises:
    InputError: the file is of another request.
  """
  if not path.exists():
    return False
  old = dataclasses.asdict(trace_file.TraceFile(path).header)
  new = dataclasses.asdict(header)
  flat = ({**old, **old['request']}, {**new, **new['request']})
  for key in ('model', 'tokenizer', 'text', 'logits'):
    before, now = (values[key] for values in flat)
    # From JSON, where tuples are lists.
    if json.loads(json.dumps(now)) != before:
      raise errors.InputError(
        f'{path} is a trace of another {key} ({before} there, {now} now): '
        'remove it, or write to another folder with --out'
      )
  return True
