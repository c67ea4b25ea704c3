"""The self-check as a command: what it prints, and how it ends."""

import pathlib

import pytest

from moejax.cli import check
from moejax.core import errors, exits

ROOT = pathlib.Path(__file__).parents[2]
TINY = f'--config={ROOT / "configs" / "tiny.py"}'
SMALL = (
  '--config.model.moe.num_experts=4',
  '--config.model.moe.router.k=2',
  '--config.model.dtype=float32',
)


def run(*words):
  return exits.call(check.main, [TINY, *SMALL, *words])


@pytest.mark.soak
def test_it_prints_how_far_all_is_off_and_ends_well(capsys):
  assert run() == exits.DONE
  *lines, last = capsys.readouterr().out.splitlines()
  assert last == 'The experts agree with the reference.'
  assert lines[0].startswith('output ')
  assert any(line.startswith('gradient of routed/') for line in lines)
  for line in lines:
    assert float(line.split()[-4]) < 1e-4


def test_a_wrong_kernel_is_exit_code_3(capsys, monkeypatch):
  """tests/moe/test_self_check.py has the kernels that are refused so."""

  def refuse(config, dtype, mesh, quantization):
    del dtype, mesh, quantization
    raise errors.StoppedError(f'self-check: {config.grouped_matmul!r} is off')

  monkeypatch.setattr(check.self_check, 'run', refuse)
  assert run('--config.model.moe.grouped_matmul=blocked') == exits.STOPPED
  shown = capsys.readouterr()
  assert not shown.out
  assert shown.err == "stopped: self-check: 'blocked' is off\n"


def test_a_config_without_experts_is_exit_code_2(capsys):
  flags = [TINY, '--config.model.moe.num_experts=0']
  assert exits.call(check.main, flags) == exits.BAD_INPUT
  (line,) = capsys.readouterr().err.splitlines()
  assert 'no layer with experts' in line
