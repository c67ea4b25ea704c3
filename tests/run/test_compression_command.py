"""The lines that follow a compression."""

import shlex

from moejax.run import compression_command


def test_commands_for_a_new_workdir_can_be_pasted_whatever_its_name():
  about = {
    'parameters': (10, 5),
    'layers': [{'kept': [0, 1]}],
    'steps': {'training': [('train.steps', 3)]},
    'experts': [4],
    'bytes': (10, 5),
    'repeated_bytes': 0,
    'from': 'runs/the full one',
    'step': 7,
    'method': 'random',
  }
  _, *lines = compression_command.in_words("runs/it's small", about)
  words = [shlex.split(line)[1:] for line in lines]
  flag = "--workdir=runs/it's small"
  assert [flag in line for line in words] == [True, True, False, True]
  assert "--config=configs/hf/continue.py:runs/it's small" in words[2]
  assert '--config.train.distillation.teacher=runs/the full one' in words[2]
