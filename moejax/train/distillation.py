"""Distillation: a model learns from a teacher's logits beside its text.

  loss = cross-entropy + weight * KL(teacher || student)

Both softmaxes of the divergence are those of the logits over a temperature. It
is how M-SMoE (arXiv 2310.01334) lets a smaller model recover. The teacher is
another model of the same vocabulary. Its weights are read once and never
change: they are an input of the training step, but no part of its state.
"""

import dataclasses
from typing import Any

import flax.struct
import jax

from moejax.core import errors, fields, resume
from moejax.data.batch import Batch
from moejax.model.build import Model

NEWEST, BEST = 'newest', 'best'


@dataclasses.dataclass(frozen=True)
class Distillation(fields.Checked):
  """The teacher and the divergence; the defaults are M-SMoE's.

  Attributes:
    teacher: the workdir of a run, or the folder of a Hugging Face checkpoint;
      '' for no distillation. A folder that was moved is still the same teacher:
      a run that resumes compares its weights.
    teacher_step: which checkpoint of the teacher's run: newest, best (of the
      lowest validation loss), or the number of a step. A run that resumes stays
      with the step that it began with.
    weight: of the divergence beside the cross-entropy; with 0 it is measured
      and not trained on.
    temperature: by which the logits of both models are divided.
  """

  teacher: str = resume.key(resume.TEACHER, '')
  teacher_step: str = resume.key(resume.TEACHER, NEWEST)
  weight: float = fields.number(0.2, at_least=0, at_most=1000)
  temperature: float = fields.number(2.0, at_least=0.01, at_most=1000)

  def check(self) -> None:
    """Raises InputError for a `teacher_step` that names no checkpoint."""
    step = self.teacher_step
    if step not in (NEWEST, BEST) and not step.isdecimal():
      raise errors.InputError(
        f'train.distillation.teacher_step={step!r} must be newest, best or the '
        'step of a checkpoint'
      )
    if step != NEWEST and not self.teacher:
      raise errors.InputError(
        f'train.distillation.teacher_step={step} is a checkpoint of the run in '
        'train.distillation.teacher, which is empty: set it to the workdir of '
        'that run, or leave teacher_step out'
      )


@flax.struct.dataclass
class Teacher:
  """A teacher within the training step.

  Attributes:
    weights: its weights.
    model: its structure, on the mesh of the model in training.
  """

  weights: Any
  model: Model = flax.struct.field(pytree_node=False)

  def __call__(
    self, batch: Batch, row_B: jax.Array
  ) -> tuple[jax.Array, jax.Array]:
    """The teacher's hidden states before its head, and its head.

    The pass is that of evaluation: the router draws no noise.

    Args:
      batch: rows of the global batch.
      row_B: int32, index of each row in the global batch.

    Returns:
      h_BLE, with E the teacher's width, and v_EV.
    """
    decoder = self.model.bind(self.weights)
    out = decoder(
      batch.token_BL,
      batch.segment_BL,
      batch.position_BL,
      row_B,
      images=batch.images,
    )
    return out.x_BLD, decoder.head()
