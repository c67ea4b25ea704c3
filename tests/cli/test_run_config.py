"""What `:tiny` does to a run."""

import pathlib

from moejax.cli import run_config

ROOT = pathlib.Path(__file__).parents[2]
DS = f'{ROOT}/configs/ds_2b.py:tiny'
OWN = ('data.files', '/my/text.txt')


def test_tiny_keeps_the_kind_of_model_and_reads_text_that_is_here():
  run = run_config.load(DS)
  assert run.data.mixture == 'minipile'
  assert run.data.max_documents == 20
  assert run.model.moe.num_experts == 8
  assert run.model.moe.num_shared == 1
  assert run.model.moe.router.k == 2
  assert run.opt.schedule.factor == 0.316


def test_tiny_takes_own_text_whole_unless_told_otherwise():
  assert run_config.load(DS, [OWN]).data.max_documents == 0
  some = [('data.max_documents', '3'), OWN]
  assert run_config.load(DS, some).data.max_documents == 3
