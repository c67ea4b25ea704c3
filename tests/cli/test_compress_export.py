"""compress --export: what no Hugging Face format can hold is refused first."""

import dataclasses
import json

import numpy as np
import pytest
from helpers import expert_statistics, hf, tiny, workdirs
from safetensors.numpy import load_file

from moejax.cli import compress, convert
from moejax.core import exits
from moejax.moe.balance import BALANCE
from moejax.moe.routers import ROUTERS
from moejax.run import calibrating, statistics_folder, trained

MODEL = tiny.model_config(
  vocab_size=259, max_length=48, moe={'router': ROUTERS['top_k'](k=2)}
)


def made(place, **moe):
  """A workdir of a model with such a router."""
  inner = dataclasses.replace(MODEL.moe, **moe)
  return workdirs.make(place, dataclasses.replace(MODEL, moe=inner))


def call(workdir, *flags):
  return exits.call(compress.main, [f'--workdir={workdir}', *flags])


@pytest.mark.parametrize(
  ('moe', 'flags', 'words'),
  [
    (
      {},
      ('--method=easy_ep_global', '--keep=3'),
      '--method=easy_ep_global --keep=3 may keep different numbers of experts '
      'in the layers, which no format of Hugging Face has',
    ),
    (
      {'router': ROUTERS['remoe']()},
      ('--method=easy_ep', '--keep=2'),
      'no family of Hugging Face can hold this model',
    ),
  ],
  ids=['unequal layers', 'router'],
)
def test_what_no_format_holds_is_refused_before_a_weight_is_read(
  moe, flags, words, tmp_path, capsys, monkeypatch
):
  monkeypatch.setattr(trained.Trained, 'weights', lambda *a: 1 / 0)
  workdir = made(tmp_path / 'run', **moe)
  target = tmp_path / 'hf'
  assert call(workdir, *flags, f'--export={target}') == exits.BAD_INPUT
  out, err = capsys.readouterr()
  assert out == ''
  assert words in err
  assert err.count('\n') == 1
  assert not target.exists()


def test_unequal_layers_are_written_where_a_bias_takes_experts_out(tmp_path):
  """The bias of MiniMax-M2's choice; its gates are those of the chosen."""
  workdir = tmp_path / 'run'
  flags = ['import', str(hf.GOLDEN / 'minimax_m2'), f'--workdir={workdir}']
  assert exits.call(convert.main, flags) == exits.DONE
  opened = trained.open_trained(str(workdir))
  moe, layers = opened.model.config.moe, opened.model.config.num_moe
  easy_ep_NE = np.ones((layers, moe.num_experts))
  easy_ep_NE[0, 2:] = 0  # its choice of two is enough
  statistics = dataclasses.replace(
    expert_statistics.random(
      *easy_ep_NE.shape,
      checkpoint=calibrating.fingerprint(str(workdir), opened.model, 0),
    ),
    easy_ep_NE=easy_ep_NE,
  )
  statistics_folder.save(tmp_path / 'kept', {'text': statistics}, {})
  flags = (
    '--method=easy_ep_global',
    f'--keep={moe.num_experts - 2}',
    f'--statistics={tmp_path}/kept',
    f'--export={tmp_path}/hf',
  )
  assert call(workdir, *flags) == exits.DONE
  about = json.loads((tmp_path / 'hf' / 'compression.json').read_text())
  numbers = [len(layer['kept']) for layer in about['layers']]
  assert numbers[0] < max(numbers)
  config = json.loads((tmp_path / 'hf' / 'config.json').read_text())
  assert config['num_local_experts'] == max(numbers)
  tensors = load_file(tmp_path / 'hf' / 'model.safetensors')
  biases = [x for name, x in tensors.items() if 'correction_bias' in name]
  out_of_choice = [int((bias_E == -10_000).sum()) for bias_E in biases]
  assert sorted(out_of_choice) == sorted(max(numbers) - n for n in numbers)


@pytest.mark.parametrize('product', ['--to={}/new', '--sweep'])
def test_unequal_layers_that_a_balance_loss_cannot_have_are_refused_first(
  product, tmp_path, capsys, monkeypatch
):
  monkeypatch.setattr(trained.Trained, 'weights', lambda *a: 1 / 0)
  workdir = made(tmp_path / 'run', balance=(BALANCE['quantile'](),))
  flags = ('--method=easy_ep_global', '--keep=3', product.format(tmp_path))
  assert call(workdir, *flags) == exits.BAD_INPUT
  err = capsys.readouterr().err
  assert 'balance.quantile wants the same number of experts' in err
