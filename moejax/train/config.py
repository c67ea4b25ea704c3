"""The config of a training run: its length, and when it logs and saves."""

import dataclasses
from typing import Any

from moejax.core import errors, fields, resume
from moejax.train import sparsity, spikes
from moejax.train.distillation import Distillation
from moejax.train.loggers import DEFAULT, LOGGERS, Logger
from moejax.train.lora import Lora
from moejax.train.profile import Profile


@dataclasses.dataclass(frozen=True)
class TrainConfig(fields.Checked):
  """The length of a run, and when it logs, evaluates and saves.

  Attributes:
    steps: number of steps of the run, over which the learning rate's schedule
      is laid out.
    batch_size: rows of the global batch.
    micro_batches: number of pieces of a batch that are computed one after the
      other, which takes less memory and gives the same result.
    consistency: weight of the disagreement of two passes of every batch with
      different noise, which is added to the loss (THOR, arXiv 2110.04260;
      alpha = 1 in its code); 0 for one pass.
    mtp_weight: weight of the losses of multi-token prediction, if the model has
      `mtp_layers` (DeepSeek-V3: 0.3, and 0.1 for the last third of training).
    distillation: the model to learn from beside the text, if there is one.
    max_bad_steps: number of steps in a row whose loss or gradient is not finite
      after which training stops.
    loggers: where the metrics are written.
    log_every: steps between lines of metrics.jsonl and of the log.
    load_every: steps between arrays of expert load [layers, experts] in
      metrics.jsonl, whatever log_every is; 0 for never.
    checkpoint_every: steps between checkpoints; the last step has one too.
    keep_checkpoints: number of the newest checkpoints that are kept, besides
      the best one by validation loss.
    keep_checkpoints_at: steps whose weights are kept for ever in WORKDIR/kept,
      as they are trained (float32), to measure later how the routers changed;
      without the optimiser's state they take a third of a checkpoint's bytes. 0
      names the initial weights.
    keep_checkpoints_every: steps between further weights that are kept so.
    save_best: whether a step whose evaluation is the best so far is saved as
      well. If not, the best is chosen among the steps that are saved anyway.
    eval_every: steps between evaluations; the last step has one too.
    eval_batches: batches of each validation set in an evaluation; 0 for all.
    peak_tflops: peak speed of all devices together in TFLOP/s, for model-FLOPs
      utilisation; 0 leaves that out.
    skip_spikes: rule by which steps are skipped because their loss jumps.
    sparsity: rule by which experts' matrices lose columns.
    lora: adapters, which are trained in place of the weights.
    local_checkpoints: folder on a fast disk of each machine, for checkpoints
      that are saved more often; '' for none.
    local_checkpoint_every: steps between the checkpoints there.
    watchdog_s: seconds without the end of a step after which the stacks of all
      threads are printed; 0 for never.
    watchdog_exits: whether the process then ends, with code 4.
    compile_cache: folder of compiled programs; '' for a folder in the workdir,
      unless JAX has been given one; 'none' for no cache.
    profile: which steps are profiled.
  """

  steps: int = resume.key(
    resume.LENGTH, fields.number(1000, at_least=1, at_most=10**9)
  )
  batch_size: int = fields.number(8, at_least=1)
  micro_batches: int = resume.key(resume.ROUNDING, fields.number(1, at_least=1))
  consistency: float = fields.number(0.0, at_least=0, at_most=1000)
  mtp_weight: float = fields.number(0.3, at_least=0, at_most=100)
  distillation: Distillation = Distillation()
  max_bad_steps: int = resume.key(resume.NOTHING, fields.number(10, at_least=1))
  loggers: tuple[Logger, ...] = resume.key(
    resume.NOTHING, fields.choices(LOGGERS, DEFAULT)
  )
  log_every: int = resume.key(resume.NOTHING, fields.number(10, at_least=1))
  load_every: int = resume.key(
    resume.NOTHING, fields.number(100, at_least=0, note='0: never')
  )
  checkpoint_every: int = resume.key(
    resume.NOTHING, fields.number(500, at_least=1)
  )
  keep_checkpoints: int = resume.key(
    resume.NOTHING, fields.number(3, at_least=1)
  )
  keep_checkpoints_at: tuple[int, ...] = resume.key(
    resume.NOTHING, fields.number((), at_least=0, note='0: initial weights')
  )
  keep_checkpoints_every: int = resume.key(
    resume.NOTHING, fields.number(0, at_least=0, note='0: none')
  )
  save_best: bool = resume.key(resume.NOTHING, True)
  eval_every: int = resume.key(resume.NOTHING, fields.number(500, at_least=1))
  eval_batches: int = resume.key(
    resume.NOTHING, fields.number(8, at_least=0, note='0: all')
  )
  peak_tflops: float = resume.key(
    resume.NOTHING,
    fields.number(0.0, at_least=0, at_most=10**9, note='0: unknown'),
  )
  skip_spikes: Any = fields.choice(spikes.SPIKES, spikes.NEVER)
  sparsity: Any = fields.choice(sparsity.SPARSITIES, sparsity.NONE)
  lora: Lora = Lora()
  local_checkpoints: str = resume.key(resume.NOTHING, '')
  local_checkpoint_every: int = resume.key(
    resume.NOTHING, fields.number(50, at_least=1)
  )
  watchdog_s: float = resume.key(
    resume.NOTHING,
    fields.number(1800.0, at_least=0, at_most=10**9, note='0: never'),
  )
  watchdog_exits: bool = resume.key(resume.NOTHING, False)
  compile_cache: str = resume.key(resume.NOTHING, '')
  profile: Profile = Profile()

  def check(self) -> None:
    """Raises InputError if the numbers do not fit together."""
    if self.batch_size % self.micro_batches:
      raise errors.InputError(
        f'train.batch_size={self.batch_size} does not divide into '
        f'train.micro_batches={self.micro_batches}'
      )
    self.distillation.check()
    self.lora.check()
    self.profile.check(self.steps)
    if self.lora.rank and self.sparsity != sparsity.NONE:
      raise errors.InputError(
        'train.sparsity prunes weights, which stay as they are with '
        f'train.lora.rank={self.lora.rank}: leave out one of the two'
      )
    late = [step for step in self.keep_checkpoints_at if step > self.steps]
    if late:
      raise errors.InputError(
        f'train.keep_checkpoints_at has {late[0]}, but the run ends after '
        f'train.steps={self.steps}: leave out later steps'
      )

  def keeps(self, step: int) -> bool:
    """Whether the weights after a step are to be kept for ever."""
    every = self.keep_checkpoints_every
    periodic = every > 0 and step > 0 and step % every == 0
    return periodic or step in self.keep_checkpoints_at
