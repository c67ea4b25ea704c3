"""A run: every key there is, and how a config file becomes one.

  python -m moejax.main --config=configs/tiny.py
  python -m moejax.main --config=configs/ds_2b.py:tiny --config.opt.peak_lr=3e-4

A config file is Python with `get_config()` (or `get_config(arg)`, given what
stands behind the colon), which returns `to_config_dict(Run())` with the keys it
cares for changed. `:tiny` is for every file: it shrinks whatever the file
describes to what a laptop runs in under a minute. It may stand before or behind
other words, with a colon or a comma between them.
"""

import dataclasses
import functools
import inspect
import json
import os
import pathlib
import re
from collections.abc import Mapping, Sequence
from typing import Any

import ml_collections
from etils import epath

from moejax.cli import kept, user_files
from moejax.convert import folder as folders
from moejax.convert import load as load_hf
from moejax.convert import tokenizer
from moejax.core import config, errors, resume, table
from moejax.data.config import DataConfig
from moejax.model.config import ModelConfig
from moejax.model.rope import Plain
from moejax.parallel.mesh import MeshConfig
from moejax.train.loop import TrainConfig
from moejax.train.optimizer import OptimizerConfig

# What stands between words behind a config file's path, and the word `tiny`.
SEPARATOR = re.compile('[:,]')
TINY = re.compile('(?:^|(?<=[:,]))tiny(?=$|[:,])')


@dataclasses.dataclass(frozen=True)
class ReportConfig(config.Checked):
  """What is measured when a run has all its steps.

  Attributes:
    eval_batches: batches of each validation set; 0 for all. With fewer there
      are no baselines beside the scores, as those are of the whole text.
    samples: whether to generate some text.
  """

  eval_batches: int = config.number(0, at_least=0, note='0: all')
  samples: bool = True


@dataclasses.dataclass(frozen=True)
class Run(config.Checked):
  """Everything about a run; nothing else changes its result.

  Attributes:
    seed: of weights, data order and routers' noise.
    model: the network.
    data: what it reads.
    opt: the optimiser.
    train: steps, batch, and when to log, save and evaluate.
    mesh: devices along each axis.
    report: what is measured at the end.
    start: whose weights the run begins with: a folder of a Hugging Face
      checkpoint, or the workdir of another run; '' for fresh ones.
    start_step: of such a run the checkpoint: newest, best (of the lowest
      validation loss), or the number of a step.
  """

  seed: int = config.number(0, at_least=0, below=2**63)
  model: ModelConfig = ModelConfig()
  data: DataConfig = DataConfig()
  opt: OptimizerConfig = OptimizerConfig()
  train: TrainConfig = TrainConfig()
  mesh: MeshConfig = resume.key(resume.ROUNDING, MeshConfig())
  report: ReportConfig = resume.key(resume.NOTHING, ReportConfig())
  start: str = resume.key(resume.BEGINNING, '')
  start_step: str = resume.key(resume.BEGINNING, 'newest')

  def check(self) -> None:
    """Raises InputError if the parts do not fit together."""
    self.model.check()
    self.data.check()
    self.train.check()
    if self.data.sequence_length > self.model.max_length:
      raise errors.InputError(
        f'data.sequence_length={self.data.sequence_length} is longer than '
        f'model.max_length={self.model.max_length}; shorten the one or raise '
        'the other'
      )
    self._check_start_step()
    size = self.data.vocab.size
    if size > self.model.vocab_size:
      raise errors.InputError(
        f'model.vocab_size={self.model.vocab_size} is smaller than the {size} '
        f'ids of data.vocab; set model.vocab_size={size} or more'
      )

  def _check_start_step(self) -> None:
    step = self.start_step
    if step not in ('newest', 'best') and not step.isdecimal():
      raise errors.InputError(
        f'start_step={step!r} must be newest, best or the step of a checkpoint'
      )
    if step != 'newest' and not self.start:
      raise errors.InputError(
        f'start_step={step} is a checkpoint of the run in start, which is '
        'empty: set start to the workdir of that run, or leave start_step out'
      )


def default() -> ml_collections.ConfigDict:
  """Every key with its default, for a config file to change."""
  return config.to_config_dict(Run())


def from_checkpoint(folder: str) -> ml_collections.ConfigDict:
  """Every key with its default but for what a checkpoint says of itself.

  Args:
    folder: of a Hugging Face checkpoint, or the workdir of a run; model,
      tokenizer and `start` are its.

  Raises:
    InputError: it cannot be used.
  """
  if (epath.Path(folder) / kept.CHECKPOINTS).is_dir():
    there = of_workdir(folder)
    data = DataConfig(vocab=there.data.vocab)
    where = os.fspath(epath.Path(folder).resolve())
    return config.to_config_dict(Run(model=there.model, data=data, start=where))
  plan = load_hf.plan(folders.open_folder(folder))
  vocab = tokenizer.vocab(plan.folder.path, plan.config.vocab_size)
  data = DataConfig(vocab=vocab)
  start = os.fspath(plan.folder.path.resolve())
  return config.to_config_dict(Run(model=plan.config, data=data, start=start))


def of_workdir(workdir: str) -> Run:
  """The config that a workdir was made with, with its own copy of a tokenizer.

  Raises:
    InputError: there is none, or it cannot be read.
  """
  path = epath.Path(workdir) / kept.CONFIG
  if not path.exists():
    raise errors.InputError(
      f'{workdir} is not the workdir of a run: it has no {kept.CONFIG}'
    )
  try:
    run = config.from_config_dict(Run, json.loads(path.read_text()))
  except (ValueError, errors.InputError) as e:
    raise errors.InputError(
      f'{path} cannot be read ({e}); use another --workdir'
    ) from None
  vocab = kept.resolved(run.data.vocab, workdir)
  return dataclasses.replace(
    run, data=dataclasses.replace(run.data, vocab=vocab)
  )


def beside(file: str, name: str) -> ml_collections.ConfigDict:
  """Another config in the folder of a config file, to be changed.

  Args:
    file: the `__file__` of the one that wants it.
    name: the other's, and behind a colon what to pass to it.
  """
  folder = os.path.dirname(os.path.abspath(file))
  return config.to_config_dict(load(os.path.join(folder, name)))


def vary(
  c: ml_collections.ConfigDict,
  variants: Mapping[str, Mapping[str, Any]],
  name: str,
) -> ml_collections.ConfigDict:
  """Changes a config as one entry of a table says.

  Args:
    c: the config; it is changed.
    variants: by name the keys to set, by their dotted path.
    name: what stands behind the colon; '' is the first entry.

  Raises:
    InputError: there is no such entry.
  """
  name = name or next(iter(variants))
  for key, value in table.lookup('variant', variants, name).items():
    *path, last = key.split('.')
    node = functools.reduce(lambda node, part: node[part], path, c)
    node[last] = value
  return c


def load(
  spec: str, overrides: Sequence[tuple[str, str]] = (), workdir: str = ''
) -> Run:
  """The run that a config file and flags describe.

  Args:
    spec: a path, and behind a colon what to pass to `get_config`; `tiny` is
      applied to whatever the file says.
    overrides: dotted paths and texts, in any order.
    workdir: of the run; its copy of the tokenizer stands in for one whose file
      is gone.

  Raises:
    InputError: no such file, an unknown key, a wrong type, parts that do not
      fit together.
  """
  path, arg, tiny = _parts(spec)
  found = _get_config(path, arg)
  try:
    run = config.from_config_dict(Run, found)
  except errors.InputError as e:
    raise errors.InputError(f'{path}: {e}') from None
  if tiny:
    run = shrink(run)
  run = config.override_all(run, overrides)
  given = {key for key, _ in overrides}
  if tiny and 'data.files' in given and 'data.max_documents' not in given:
    # Own text is taken whole: only the mixtures are cut short.
    run = config.override(run, 'data.max_documents', '0')
  if workdir:
    vocab = kept.adopted(run.data.vocab, workdir)
    run = dataclasses.replace(
      run, data=dataclasses.replace(run.data, vocab=vocab)
    )
  run.check()
  # Not in `check`: what has been trained can be used whatever its schedule was.
  run.opt.schedule.check(run.train.steps)
  return run


def default_workdir(spec: str) -> str:
  """runs/<name of the config file>, with what stands behind the colon."""
  path, _, arg = spec.partition(':')
  words = [pathlib.PurePath(word).name for word in SEPARATOR.split(arg) if word]
  return os.path.join('runs', '-'.join([pathlib.Path(path).stem, *words]))


def _parts(spec: str) -> tuple[str, str, bool]:
  """The path, what is passed to `get_config`, and whether to shrink the run.

  Example: `zoo.py:olmoe:tiny`, `zoo.py:tiny,olmoe` and `zoo.py:olmoe,tiny` are
  all zoo.py, olmoe and True.
  """
  path, _, arg = spec.partition(':')
  # Anything else stays as it is: it may be a path.
  rest = TINY.sub('', arg)
  return path, rest.strip(':,'), rest != arg


def shrink(run: Run) -> Run:
  """The same run, small enough for a laptop: fewer of everything.

  What kind of model it is stays: router, dispatcher, shared experts, first
  dense layers, schedule. Weights are fresh: those of `start` would not fit.
  """
  model, moe = run.model, run.model.moe
  groups = max(model.num_heads // model.kv_heads, 1)
  experts = min(moe.num_experts, 8)
  choices = experts + moe.zero_computation.num
  # As a share of the run, so that --config.train.steps may be anything.
  schedule = dataclasses.replace(run.opt.schedule, warmup=None)
  dense = min(model.first_dense, 1)
  data = dataclasses.replace(run.data, sequence_length=64)
  if not data.files:
    # Text that is here, and little of it.
    data = dataclasses.replace(data, mixture='minipile', max_documents=20)
  return dataclasses.replace(
    run,
    model=_with_scaling(
      model.rope.scaling,
      model,
      width=64,
      num_layers=dense + 2,
      first_dense=dense,
      moe_every=min(model.moe_every, 2),
      num_heads=4,
      num_kv_heads=max(4 // groups, 1),
      head_dim=16,
      heads=model.heads.shrunk(),
      # Of 16 features an even number turns, two at least.
      rope=dataclasses.replace(
        model.rope,
        share=max(round(8 * model.rope.share), 1) / 8,
        scaling=Plain(),
      ),
      dense_width=128,
      max_length=64,
      token_chunks=1,
      mtp_layers=min(model.mtp_layers, 1),
      feed_forward=model.feed_forward.shrunk(),
      vocab_size=run.data.vocab.size,
      moe=dataclasses.replace(
        moe,
        num_experts=experts,
        expert_width=32,
        latent_width=min(moe.latent_width, 16),
        num_shared=min(moe.num_shared, 1),
        shared=dataclasses.replace(moe.shared, width=0),
        router=_shrunk(moe.router, choices),
        dispatcher=_shrunk(moe.dispatcher, experts),
        balance=tuple(_shrunk(part, choices) for part in moe.balance),
      ),
    ),
    data=data,
    opt=dataclasses.replace(run.opt, schedule=schedule),
    train=dataclasses.replace(
      run.train,
      steps=20,
      batch_size=8,
      micro_batches=1,
      log_every=5,
      checkpoint_every=10,
      eval_every=20,
      eval_batches=2,
    ),
    # Three seconds on two cores, where all validation text took minutes.
    report=dataclasses.replace(run.report, eval_batches=4),
    mesh=MeshConfig(),
    start='',
    start_step='newest',
  )


def _with_scaling(
  scaling: Plain, model: ModelConfig, **changes: Any
) -> ModelConfig:
  """The model with changes, and a scaling for the features that then turn."""
  model = dataclasses.replace(model, **changes)
  scaling = scaling.shrunk(model.heads.turning(model))
  rope = dataclasses.replace(model.rope, scaling=scaling)
  return dataclasses.replace(model, rope=rope)


def _shrunk(part: Any, num_experts: int) -> Any:
  """The part for fewer experts, where it has something to say about that."""
  shrunk = getattr(part, 'shrunk', None)
  # A dense model has a router too, of which nothing is used.
  return shrunk(num_experts) if shrunk and num_experts else part


def _get_config(path: str, arg: str) -> ml_collections.ConfigDict:
  get_config = getattr(user_files.load(path, 'config'), 'get_config', None)
  if not callable(get_config):
    raise errors.InputError(f'{path} has no function get_config()')
  takes = len(inspect.signature(get_config).parameters)
  if arg and not takes:
    raise errors.InputError(
      f'{path} takes nothing behind the colon but "tiny", not {arg!r}'
    )
  made = user_files.call(path, get_config, *([arg] if takes else []))
  if not isinstance(made, ml_collections.ConfigDict):
    raise errors.InputError(
      f'{path}: get_config() must return a ConfigDict, not '
      f'{type(made).__name__}'
    )
  return made
