"""The generalisation gap: the task, the bound's shape, and a small run."""

import json

import jax
import numpy as np
import pytest

from moejax.core import errors
from moejax.research.expert_estimation import generalise

TASK = generalise.Task(samples=40, width=3, steps=60, trials=2)


def test_labels_are_those_of_the_rule_but_for_the_flipped_ones():
  task = generalise.Task(flipped=0.25)
  x_ND, label_N = generalise.draw(task, 20_000, np.random.default_rng(0))
  rule_N = np.sign(x_ND[:, 0] + np.abs(x_ND[:, 1]) - 0.5)
  # Binomial with p = 0.25: standard deviation .003.
  assert np.mean(label_N != rule_N) == pytest.approx(0.25, abs=0.012)


def test_the_bounds_shape_by_hand():
  assert generalise.shape(4, 4) == pytest.approx(2.0)
  assert generalise.shape(8, 2) == pytest.approx(np.sqrt(2 * 2.386294))


def test_training_lowers_the_loss_and_error_rates_are_counted():
  model = generalise.classifier(TASK, 4, 2)
  rng = np.random.default_rng(1)
  x_ND, label_N = generalise.draw(TASK, 40, rng)
  begin = generalise.start(model, rng)
  one = lambda tree: jax.tree.map(lambda leaf: np.asarray(leaf)[None], tree)
  before = generalise.error_rates(model, one(begin), x_ND[None], label_N[None])
  params = generalise.train(model, TASK, one(begin), x_ND[None], label_N[None])
  after = generalise.error_rates(model, params, x_ND[None], label_N[None])
  assert float(after[0]) < float(before[0])
  # Against a loop over inputs.
  gate = jax.tree.map(lambda leaf: np.asarray(leaf[0]), params.gate)
  expert_EP, wrong = np.asarray(params.routed_EP[0]), 0
  for x, label in zip(x_ND, label_N, strict=True):
    score = gate['slope'] @ x + gate['bias']
    kept = np.argsort(-score)[:2]
    weight = np.exp(score[kept] - score[kept].max())
    value = weight / weight.sum() @ (expert_EP[kept] @ np.append(x, 1))
    wrong += value * label <= 0
  assert float(after[0]) == pytest.approx(wrong / 40)


def test_the_command_goes_on_and_says_what_is_wrong(tmp_path, capsys):
  flags = [
    '--experts=1,2',
    '--k=2',
    '--trials=2',
    '--samples=20',
    '--steps=3',
    f'--out={tmp_path}',
  ]
  generalise.main(flags)
  assert 'bound shape' in capsys.readouterr().out
  found = json.loads((tmp_path / 'results.json').read_text())
  assert [(part['experts'], part['k']) for part in found['parts']] == [(2, 2)]
  part = tmp_path / 'T=2,k=2.json'
  changed = json.loads(part.read_text())
  changed['train'] = [0.0, 0.0]
  part.write_text(json.dumps(changed))
  generalise.main(flags)  # the part is read, and not computed again
  found = json.loads((tmp_path / 'results.json').read_text())
  assert found['parts'][0]['train'] == [0.0, 0.0]
  for damage in ('', '[]', '{"train": [0.0]}'):
    part.write_text(damage)
    with pytest.raises(errors.InputError, match='2.json is damaged'):
      generalise.main(flags)
  with pytest.raises(errors.InputError, match='--config.x: this command has'):
    generalise.main([*flags, '--config.x=1'])
  with pytest.raises(errors.InputError, match='with other seed'):
    generalise.main([*flags, '--seed=3'])
  with pytest.raises(errors.InputError, match='--k=4 is more than all of'):
    generalise.main(['--experts=2', '--k=4'])
  with pytest.raises(errors.InputError, match='must be whole numbers'):
    generalise.main(['--experts=2,x'])
