"""The model that a run learns from (`train.distillation`), by its config.

  find(run)   -> TeacherConfig   what `train.distillation.teacher` names, and
                                 the model on the devices of the run

Nothing is read but configs, and the headers of a Hugging Face checkpoint.
"""

import dataclasses
import os
from typing import Any

from etils import epath

from moejax.config import kept_tokenizer, loading
from moejax.config.run import Run
from moejax.convert import folder as folders
from moejax.convert import load as load_hf
from moejax.convert import tokenizer
from moejax.core import errors
from moejax.data.vocab import Ids, Vocab
from moejax.model.config import ModelConfig
from moejax.train.distillation import NEWEST

KEY = 'train.distillation.teacher'


@dataclasses.dataclass(frozen=True)
class TeacherConfig:
  """A teacher that fits a run.

  Attributes:
    place: the workdir or folder, as the run's config names it.
    model: its config, with the compute type, expert parallelism and token
      chunks of the run.
    plan: how its Hugging Face checkpoint is read; None for a workdir.
    compared: whether its tokenizer was compared with that of the run; it cannot
      be if the checkpoint came without one.
  """

  place: str
  model: ModelConfig
  plan: load_hf.ImportPlan | None
  compared: bool


def find(run: Run, workdir: str = '') -> TeacherConfig | None:
  """The teacher of a run; None without one.

  Args:
    run: the config.
    workdir: folder of the run, which cannot be its own teacher; '' if it has
      none.

  Raises:
    InputError: there is no such teacher, or it does not fit the run.
  """
  place = run.train.distillation.teacher
  if not place:
    return None
  if workdir and os.path.realpath(place) == os.path.realpath(workdir):
    raise errors.InputError(
      f'{KEY}={place} is the --workdir of this run: a run cannot learn from '
      'itself; name the workdir of the full model'
    )
  try:
    model, vocab, plan = _read(run, place)
  except errors.InputError as e:
    raise errors.InputError(f'{KEY}={place}: {e}') from e
  compared = not isinstance(vocab, Ids)
  _check(run, place, model, vocab if compared else None)
  return TeacherConfig(place, _on_devices_of(run, model), plan, compared)


def _read(
  run: Run, place: str
) -> tuple[ModelConfig, Vocab, load_hf.ImportPlan | None]:
  """Model and vocabulary of a workdir or of a Hugging Face checkpoint."""
  if (epath.Path(place) / kept_tokenizer.CHECKPOINTS).exists():
    theirs = loading.of_workdir(place)
    return theirs.model, theirs.data.vocab, None
  step = run.train.distillation.teacher_step
  if step != NEWEST:
    raise errors.InputError(
      f'teacher_step={step} is for the workdir of a run, but there is no '
      f'{kept_tokenizer.CHECKPOINTS}/ in it: leave teacher_step out, or name a '
      'workdir'
    )
  plan = load_hf.plan(folders.open_folder(place))
  vocab = tokenizer.vocab(plan.folder.path, plan.config.vocab_size)
  return plan.config, vocab, plan


def _check(
  run: Run, place: str, model: ModelConfig, vocab: Vocab | None
) -> None:
  """Raises InputError unless both models read and predict the same ids."""
  if model.vocab_size != run.model.vocab_size:
    raise errors.InputError(
      f'{KEY}={place} predicts {model.vocab_size} ids, but '
      f'model.vocab_size={run.model.vocab_size}: their logits cannot be '
      f'compared; set model.vocab_size={model.vocab_size}, or take another '
      'teacher'
    )
  if vocab and vocab.fingerprint() != run.data.vocab.fingerprint():
    raise errors.InputError(
      f'{KEY}={place} was trained with another tokenizer than data.vocab: its '
      'ids mean other text; set data.vocab to its tokenizer, or take another '
      'teacher'
    )
  if run.data.sequence_length > model.max_length:
    raise errors.InputError(
      f'data.sequence_length={run.data.sequence_length} is longer than the '
      f'{model.max_length} tokens of {KEY}={place}; shorten the one, or take '
      'another teacher'
    )


def _on_devices_of(run: Run, model: ModelConfig) -> ModelConfig:
  """The teacher as the devices of the run compute it.

  Its expert parallelism is that of the run, without loss: an assignment that
  does not fit into a buffer is computed all the same.
  """
  parallel: Any = run.model.moe.expert_parallel
  if hasattr(parallel, 'overflow'):
    parallel = dataclasses.replace(parallel, overflow='dropless')
  return dataclasses.replace(
    model,
    dtype=run.model.dtype,
    token_chunks=run.model.token_chunks,
    moe=dataclasses.replace(model.moe, expert_parallel=parallel),
  )
