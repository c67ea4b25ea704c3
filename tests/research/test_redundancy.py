"""Study 2 from results of interventions made by hand."""

import pytest

from moejax.research import redundancy
from moejax.run import intervening

UNCHANGED = intervening.UNCHANGED
MASKED = {
  'gshard': {
    UNCHANGED: [3.0, 3.2],
    **dict.fromkeys(redundancy.RATIOS, [3.5, 3.7]),
  },
  'deepseek_moe': {
    UNCHANGED: [3.0, 3.0],
    **dict.fromkeys(redundancy.RATIOS, [5.0, 6.0]),
  },
}


def test_rises_are_over_each_runs_own_loss():
  rows = redundancy.mask_rows(MASKED)
  assert rows[0] == [
    'share masked',
    'gshard: rise',
    'paper',
    'deepseek_moe: rise',
    'paper',
  ]
  # 0.5 and 0.5; 2 and 3.
  assert rows[2] == [
    '1/16',
    '+0.500 ± 0.000',
    '+3.778',
    '+2.500 ± 0.707',
    '+5.660',
  ]


def test_fewer_active_experts_are_compared_with_all_of_gshards():
  active = {'deepseek_moe': {str(k): [3.0 - k / 10] for k in range(3, 8)}}
  rows = redundancy.active_rows(active, {'gshard': [2.4, 2.6]})
  # 3 - 0.4 - 2.5; the paper: 1.868 - 1.867.
  assert rows[2] == ['deepseek_moe, 4', '+0.100', '+0.001']
  assert redundancy.active_rows(active, {})[2][1] == '-'


def test_the_shared_expert_is_compared_with_its_own_model():
  shared = {
    'deepseek_moe': {UNCHANGED: [3.0, 3.0], '0': [4.0, 4.0], '1': [3.5, 3.7]}
  }
  rows = redundancy.shared_rows(shared)
  assert rows[1:] == [
    ['0', '+1.000 ± 0.000', '-'],
    ['1', '+0.600 ± 0.141', '+0.606'],
  ]


def test_losses_are_the_means_over_validation_sets(monkeypatch):
  asked = []

  def intervene(workdir, request, note):
    asked.append((workdir, request.what, request.batches))
    row = lambda value, on, score: {'value': value, 'on': on, 'score': score}
    return {
      'rows': [
        row(None, 'code', 9.0),
        row(None, 'mean', 3.0),
        row('1/8', 'code', 9.0),
        row('1/8', 'mean', 3.0 + len(asked)),
      ]
    }

  class Run:
    def __init__(self, workdir):
      self.workdir = workdir

  monkeypatch.setattr(intervening, 'intervene', intervene)
  groups = {'gshard': [Run('a'), Run('b')]}
  found = redundancy.losses(groups, 'mask_top', ['1/8'], 7)
  assert found == {'gshard': {UNCHANGED: [3.0, 3.0], '1/8': [4.0, 5.0]}}
  assert asked == [('a', 'mask_top', 7), ('b', 'mask_top', 7)]


def test_it_draws(tmp_path):
  active = {'deepseek_moe': {str(k): [3.0 - k / 10] for k in range(3, 8)}}
  figure = redundancy.draw(MASKED, active, {'gshard': [2.4, 2.6]})
  figure.savefig(tmp_path / 'x.png')
  assert (tmp_path / 'x.png').stat().st_size > 10_000


@pytest.mark.parametrize('method', redundancy.METHODS)
def test_the_paper_has_a_value_for_each_share(method):
  assert len(redundancy.FIGURE_4[method]) == len(redundancy.RATIOS)
