"""The benchmark of calibration, on tiny models."""

import dataclasses
import re

import pytest
from helpers import tiny

from benchmarks import compress, standard
from moejax.convert import folder as folders
from moejax.convert import load
from moejax.core import exits
from moejax.model import build


def test_the_ratio_of_both_sides_is_printed(capsys, monkeypatch):
  shape = dataclasses.replace(standard.STANDARD, config=tiny.MODEL, length=8)
  monkeypatch.setattr(standard, 'STANDARD', shape)
  weights = lambda model, _: tiny.weights(model)
  monkeypatch.setattr(build.Model, 'init', weights)
  code = exits.call(compress.main, ['--batches=2', '--rounds=1'])
  out, _ = capsys.readouterr()
  assert code == exits.DONE
  evaluation, calibration, ratio = out.splitlines()
  rate = lambda line: float(line.split()[1].replace(',', ''))
  assert (evaluation.split()[0], calibration.split()[0]) == (
    'evaluation',
    'calibration',
  )
  (got,) = re.findall(r'calibration / evaluation: ([\d.]+) of', ratio)
  want = rate(evaluation) / rate(calibration)
  assert abs(float(got) - want) < 0.006 + 0.001 * want
  assert '(512 tokens, ' in ratio


@pytest.mark.soak
def test_a_model_on_disk_is_calibrated_and_pruned_by_layer(
  capsys, monkeypatch, tmp_path
):
  monkeypatch.setattr(
    compress, 'LARGE', 'configs/released.py:tiny,deepseek_moe_16b'
  )
  folder = tmp_path / 'model'
  flags = [f'--folder={folder}', '--layers=3', '--tokens=20']
  for more in (
    [],
    ['--keep=4'],
  ):  # the second time, of the folder that is there
    assert exits.call(compress.main, flags + more) == exits.DONE
    out, _ = capsys.readouterr()
    assert re.match(r'3 layers, .* 20 tokens in', out)
    assert 'largest resident memory: ' in out
  assert (folder / 'config.json').exists()
  old, new = (
    load.plan(folders.open_folder(str(path))).config
    for path in (folder, tmp_path / 'model_4')
  )
  moe = dataclasses.replace(old.moe, num_experts=4)
  assert new == dataclasses.replace(old, moe=moe)
  assert f'4 of {old.moe.num_experts} experts written in' in out
