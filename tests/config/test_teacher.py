"""Which models can be the teacher of a run; nothing is computed."""

import dataclasses

import pytest
from helpers import tiny
from helpers.hf import GOLDEN

from moejax.config import Run, teacher
from moejax.core import config_tree, errors, files
from moejax.data.config import DataConfig
from moejax.data.vocab import Bytes
from moejax.moe.expert_parallel import EXPERT_PARALLEL
from moejax.train.config import TrainConfig
from moejax.train.distillation import Distillation

LLAMA = GOLDEN / 'llama'
MODEL = tiny.model_config(vocab_size=300)
DATA = DataConfig(vocab=Bytes(), sequence_length=32)


def learning(place, model=MODEL, data=DATA, **more):
  """A run that learns from a place."""
  distillation = Distillation(str(place), **more)
  return Run(
    model=model, data=data, train=TrainConfig(distillation=distillation)
  )


@pytest.fixture
def full(tmp_path):
  """The workdir of a larger model with the same vocabulary."""
  larger = tiny.model_config(vocab_size=300, num_layers=7, width=32)
  return workdir(tmp_path / 'full', Run(model=larger, data=DATA))


def workdir(path, run):
  (path / 'checkpoints').mkdir(parents=True)
  files.atomic_write_json(path / 'config.json', config_tree.to_dict(run))
  return path


def test_a_workdir_with_another_model_is_a_teacher(full):
  found = teacher.find(learning(full))
  assert (found.place, found.plan, found.compared) == (str(full), None, True)
  assert (found.model.num_layers, found.model.width) == (7, 32)
  assert teacher.find(learning('')) is None


def test_it_computes_as_the_devices_of_the_run_do(full):
  """In the run's type and chunks, and no buffer loses an assignment."""
  parallel = EXPERT_PARALLEL['all_to_all'](factor=1.25, overflow='drop')
  model = dataclasses.replace(
    tiny.model_config(vocab_size=300, moe={'expert_parallel': parallel}),
    dtype='bfloat16',
    token_chunks=2,
  )
  found = teacher.find(learning(full, model)).model
  assert (found.dtype, found.token_chunks) == ('bfloat16', 2)
  assert found.moe.expert_parallel == dataclasses.replace(
    parallel, overflow='dropless'
  )


def test_an_imported_folder_is_a_teacher():
  """It has no tokenizer, which could be compared."""
  model = tiny.model_config(vocab_size=64)
  found = teacher.find(learning(LLAMA, model))
  assert found.plan is not None
  assert not found.compared


def line_of(run, workdir=''):
  with pytest.raises(errors.InputError) as error:
    teacher.find(run, workdir)
  assert '\n' not in str(error.value)
  return str(error.value)


def test_a_run_cannot_be_its_own_teacher(full, tmp_path):
  (tmp_path / 'link').symlink_to(full)
  line = line_of(learning(tmp_path / 'link'), str(full))
  assert f'train.distillation.teacher={tmp_path / "link"} is the --work' in line
  assert 'cannot learn from itself' in line


def test_what_is_no_model_is_no_teacher(tmp_path):
  assert line_of(learning(tmp_path / 'nowhere')).startswith(
    f'train.distillation.teacher={tmp_path / "nowhere"}: there is no folder'
  )
  assert 'has no config.json' in line_of(learning(tmp_path))
  (tmp_path / 'checkpoints').mkdir()
  assert 'is not the workdir of a run' in line_of(learning(tmp_path))


def test_another_vocabulary_is_no_teacher(full, tmp_path):
  line = line_of(learning(full, tiny.model_config(vocab_size=301)))
  assert f'teacher={full} predicts 300 ids, but model.vocab_size=301' in line
  other = DataConfig(sequence_length=32)  # the shipped SentencePiece model
  theirs = tiny.model_config(vocab_size=9000)
  place = workdir(tmp_path / 'other', Run(model=theirs, data=other))
  line = line_of(learning(place, theirs))
  assert f'teacher={place} was trained with another tokenizer' in line


def test_a_row_longer_than_the_teacher_can_read(tmp_path):
  short = tiny.model_config(vocab_size=300, max_length=16)
  data = dataclasses.replace(DATA, sequence_length=16)
  place = workdir(tmp_path / 'short', Run(model=short, data=data))
  line = line_of(learning(place))
  assert 'sequence_length=32 is longer than the 16 tokens of' in line


def test_a_folder_has_no_steps():
  line = line_of(learning(LLAMA, teacher_step='best'))
  assert 'teacher_step=best is for the workdir of a run' in line
