"""Run: every config key, as one tree of frozen dataclasses."""

import dataclasses

from moejax.core import errors, fields, quantization, resume
from moejax.data.config import DataConfig
from moejax.model.config import ModelConfig
from moejax.parallel.mesh import MeshConfig
from moejax.train.config import TrainConfig
from moejax.train.optimizer import OptimizerConfig


@dataclasses.dataclass(frozen=True)
class ReportConfig(fields.Checked):
  """What is measured after the last step of a run.

  Attributes:
    eval_batches: batches of each validation set; 0 for all. With fewer, the
      report has no baselines, because those are of the whole text.
    samples: whether to generate text from a few prompts.
    suite: a suite of benchmarks that needs no network, such as 'offline'; ''
      for none.
    page: whether the page of the run, report.html, is written.
    trace_tokens: about how many tokens of the validation sets are traced at
      each evaluation, for the page and moejax analyse; 0 for none. A run of
      several processes has no traces.
  """

  eval_batches: int = fields.number(0, at_least=0, note='0: all')
  samples: bool = True
  suite: str = ''
  page: bool = True
  trace_tokens: int = fields.number(10_000, at_least=0, note='0: none')


@dataclasses.dataclass(frozen=True)
class EvalsConfig(fields.Checked):
  """Benchmarks that are asked while a model trains; docs/evaluation.md.

  Their scores are written with the other metrics, as
  `evals/<task>/<metric>`. Training waits while they are computed, and their
  time counts as evaluation.

  Attributes:
    suite: name of the suite; '' for none.
    tasks: names of its tasks, joined by commas; '' for all.
    every: steps between evaluations; the last step has one too.
    limit: rows of each configuration of a task; 0 for all.
    data: where the rows are: 'hub', 'tfds' or a folder.
  """

  suite: str = ''
  tasks: str = ''
  every: int = fields.number(1000, at_least=1)
  limit: int = fields.number(100, at_least=0, note='0: all')
  data: str = 'hub'

  def check_used(self) -> None:
    """Raises InputError if tasks are named that would not be asked."""
    if self.tasks and not self.suite:
      raise errors.InputError(
        f'evals.tasks={self.tasks} are not asked without a suite: set '
        'evals.suite, such as lm_eval'
      )


@dataclasses.dataclass(frozen=True)
class Run(fields.Checked):
  """The config of a run; nothing else changes its result.

  Attributes:
    seed: seed of initial weights, data order and routers' noise.
    model: the network.
    data: text, vocabulary and rows.
    opt: the optimiser.
    train: steps, batch, and when to log, save and evaluate.
    mesh: number of devices along each axis.
    evals: benchmarks while training.
    report: what is measured at the end.
    plugin: a Python file with routers, or other parts of a layer, of your own;
      see docs/moe.md. '' for none.
    start: where initial weights come from: the folder of a Hugging Face
      checkpoint, or the workdir of another run; '' for fresh ones.
    start_step: which checkpoint of that run: newest, best (of the lowest
      validation loss), or the number of a step.
  """

  seed: int = fields.number(0, at_least=0, below=2**63)
  model: ModelConfig = ModelConfig()
  data: DataConfig = DataConfig()
  opt: OptimizerConfig = OptimizerConfig()
  train: TrainConfig = TrainConfig()
  mesh: MeshConfig = resume.key(resume.ROUNDING, MeshConfig())
  evals: EvalsConfig = resume.key(resume.NOTHING, EvalsConfig())
  report: ReportConfig = resume.key(resume.NOTHING, ReportConfig())
  # Its text is compared, not its path: config/plugins.py.
  plugin: str = resume.key(resume.NOTHING, '')
  start: str = resume.key(resume.BEGINNING, '')
  start_step: str = resume.key(resume.BEGINNING, 'newest')

  def check(self) -> None:
    """Raises InputError if values of model, data and training do not fit."""
    self.model.check()
    self.data.check()
    self.train.check()
    self.train.sparsity.check(self.train.steps, self.model)
    if self.data.sequence_length > self.model.max_length:
      raise errors.InputError(
        f'data.sequence_length={self.data.sequence_length} is longer than '
        f'model.max_length={self.model.max_length}; shorten the one or raise '
        'the other'
      )
    if self.opt.parts and self.train.lora.rank:
      raise errors.InputError(
        f'train.lora.rank={self.train.lora.rank} trains adapters alone, so '
        'opt.parts has no effect: leave out one of them'
      )
    if self.model.quantization != quantization.NONE and self.train.lora.rank:
      raise errors.InputError(
        f'model.quantization={self.model.quantization} rounds a weight and its '
        f'adapter as one, and train.lora.rank={self.train.lora.rank} trains '
        'the adapter, which is smaller than the rounding: leave out one of them'
      )
    images = self.data.images
    if images.folder:
      pixels = None if images.features else images.size
      self.model.vision.check_images(images.tokens, pixels)
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
