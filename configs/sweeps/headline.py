"""The comparison of the DeepSeekMoE paper, small: nine models, three seeds.

  python -m moejax.cli.sweep --sweep=configs/sweeps/headline.py --processes=2 \
    --out=docs/routers.md

Dense, hash, Switch, GShard and DeepSeekMoE (arXiv 2401.06066, Table 1), V2 and
V3, and the two ablations of its Figure 3 between GShard and DeepSeekMoE:
shared_only, where one of GShard's experts is shared, and half_fine, where
experts are also divided in two. All have the experts of configs/zoo.py: 1,536
hidden units a layer, 192 per token. As in the paper nothing is dropped, so
GShard and Switch are without capacity here.
"""

from moejax import sweep

STEPS = 300
DROPLESS = {'model.moe.dispatcher.name': 'dropless'}
# Shared + active of routed experts: 1 + 1 of 15, 1 + 3 of 31; GShard is 0 + 2
# of 16 and DeepSeekMoE 1 + 7 of 63.
SHARED_ONLY = {
  'model.moe.num_experts': 15,
  'model.moe.expert_width': 96,
  'model.moe.router.k': 1,
}
HALF_FINE = {
  'model.moe.num_experts': 31,
  'model.moe.expert_width': 48,
  'model.moe.router.k': 3,
}


def get_sweep():
  """Three seeds of each."""
  zoo = 'configs/zoo.py:'
  runs = [
    *sweep.run(zoo + 'dense'),
    *sweep.run(zoo + 'hash'),
    *sweep.run(zoo + 'switch', DROPLESS),
    *sweep.run(zoo + 'gshard', DROPLESS),
    *sweep.run(zoo + 'deepseek_moe'),
    *sweep.run(zoo + 'deepseek_v2'),
    *sweep.run(zoo + 'deepseek_v3'),
    *sweep.run(zoo + 'deepseek_moe', SHARED_ONLY, name='shared_only'),
    *sweep.run(zoo + 'deepseek_moe', HALF_FINE, name='half_fine'),
  ]
  runs = sweep.change(
    runs,
    {
      'train.steps': STEPS,
      'report.eval_batches': 24,
      'report.samples': 0,
    },
  )
  return sweep.seeds(runs, 3)
