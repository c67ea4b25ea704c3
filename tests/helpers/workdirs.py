"""Workdirs with checkpoints that nobody has trained."""

import pathlib

from helpers import tiny
from moejax.config import Run
from moejax.core import config_tree, files
from moejax.data.config import DataConfig
from moejax.data.vocab import Bytes, Vocab
from moejax.model import build
from moejax.model.config import ModelConfig
from moejax.train import checkpoint

BYTES = Bytes()
STEPS = (10, 20)


def make(
  folder: pathlib.Path,
  model: ModelConfig,
  *,
  vocab: Vocab = BYTES,
  seed: int = 0,
) -> pathlib.Path:
  """A workdir with weights at the steps 10 and 20, of which 20 is the best.

  Args:
    folder: the workdir.
    model: of the run, on the synthetic text in rows of 16 tokens.
    vocab: of the run.
    seed: of the weights, beside the step.
  """
  folder.mkdir(exist_ok=True)
  data = DataConfig(mixture='synthetic', vocab=vocab, sequence_length=16)
  run = Run(model=model, data=data)
  shapes = build.build(model, tiny.mesh()).shapes
  files.atomic_write_json(folder / 'config.json', config_tree.to_dict(run))
  with checkpoint.Checkpointer(folder / 'checkpoints') as checkpoints:
    for step in STEPS:
      weights = tiny.draw(shapes, seed=seed + step)
      checkpoints.save(step, {'weights': weights}, {'metric': 30.0 - step})
  return folder
