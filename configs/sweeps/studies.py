"""The runs of docs/studies: each method with its best rate and three seeds.

  moejax sweep --sweep=studies_rates \
    --workdir=runs/studies --processes=2
  python -m moejax.research.learning_rates --workdir=runs/studies
  moejax sweep --sweep=studies \
    --workdir=runs/studies --processes=2

The first command trains every method with each of RATES and seed 0. The second
chooses the best rate of each method and writes it to studies_best_rates.py. The
third trains the seeds 1 and 2 with that rate; seed 0 is a run of the first
command, which is not trained again. Until a rate is chosen, a method has the
middle one.

All methods have the budget of configs/zoo.py: 1,536 hidden units of experts a
layer, 192 per token. Nothing is dropped, except by MoE++, to whose algorithm
capacity belongs. The four studies share the runs: METHODS says which run is of
which.
"""

from moejax import sweep
from moejax.config import user_files

ZOO = __file__.replace('sweeps/studies.py', 'zoo.py')
CHOSEN = __file__.replace('studies.py', 'studies_best_rates.py')

STEPS = 500
RATES = (0.003, 0.001, 0.01)  # the middle one first
# Of methods whose routers are followed over training: the start, 5%, and every
# tenth.
KEPT = (0, STEPS // 20, *range(STEPS // 10, STEPS + 1, STEPS // 10))

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
TOP_2 = {**DROPLESS, 'model.moe.router': 'top_k', 'model.moe.router.k': 2}


def _scale(value):
  return {'model.moe.router.scale': value}


# The entry of configs/zoo.py, and what is changed in it.
METHODS = {
  # Study 1, Table 1 of DeepSeekMoE (arXiv 2401.06066). Study 2 has the second
  # and the third from the end, gshard and deepseek_moe.
  'dense': ('dense', {}),
  'hash': ('hash', {}),
  'switch': ('switch', DROPLESS),
  'gshard': ('gshard', DROPLESS),
  'deepseek_moe': ('deepseek_moe', {}),
  # Study 1, Figure 3: two steps from gshard to deepseek_moe.
  'shared_only': ('deepseek_moe', SHARED_ONLY),
  'half_fine': ('deepseek_moe', HALF_FINE),
  # Study 3, and study 4 with the three after them: LibMoE's algorithms.
  'smoe': ('libmoe_smoe', {}),
  'smoe_sigmoid': ('libmoe_smoe', {'model.moe.router.score': 'sigmoid'}),
  'v2': ('libmoe_v2', {}),
  'v3': ('libmoe_v3', {}),
  'xmoe': ('libmoe_xmoe', {}),
  'tc_moe': ('tc_moe', {}),
  'moe_pp': ('moe_pp', {}),
  # Study 1, the size of the gates at the start. With all logits equal, the
  # gates of `deepseek_moe` sum to 7 / 63: times 9 they sum to 1, as GShard's.
  'deepseek_moe_sum_1': ('deepseek_moe', _scale(9)),
  'half_fine_sum_1': ('deepseek_moe', {**HALF_FINE, **_scale(31 / 3)}),
  'shared_only_sum_1': ('deepseek_moe', {**SHARED_ONLY, **_scale(15)}),
  # The other way round: GShard's experts without its chance of one expert
  # only, with gates that sum to 1, and with gates that sum to 2 / 16.
  'top_2': ('gshard', {**TOP_2, 'model.moe.router.renormalise': True}),
  'top_2_small': ('gshard', TOP_2),
  # Large gates from the start by the initialisation, not by a factor.
  'deepseek_moe_sharp': ('deepseek_moe', {'model.moe.scorer.std': 0.2}),
}
FOLLOWED = ('gshard', 'deepseek_moe', 'smoe', 'smoe_sigmoid', 'v2', 'v3')


def methods(names=tuple(METHODS), steps=STEPS, **kept):
  """One run of each method, with the settings that all share."""
  runs = []
  for name in names:
    entry, changes = METHODS[name]
    at = KEPT if name in FOLLOWED else (0,)
    keep = {'train.keep_checkpoints_at': kept.get('at', at)}
    runs += sweep.run(f'{ZOO}:{entry}', {**changes, **keep}, name=name)
  return sweep.change(
    runs,
    {
      'model.dtype': 'auto',
      'model.scan_unroll': 4,
      'train.steps': steps,
      'train.checkpoint_every': 200,
      'train.save_best': False,
      'train.eval_every': 100,
      'train.eval_batches': 2,
      'report.eval_batches': 24,
      'report.samples': False,
      'report.page': False,
      'report.trace_tokens': 0,
    },
  )


def best_rates():
  """The rate of each method that `moejax.research.learning_rates` chose."""
  return user_files.load(CHOSEN, 'sweep').BEST_RATES


def at_rates(runs, rates):
  """Each run with its rate, which becomes part of its name."""
  return [
    one
    for run in runs
    for one in sweep.product(
      [run], {'opt.peak_lr': [rates.get(run.name, RATES[0])]}
    )
  ]


def get_sweep():
  """Every method with its best rate and three seeds."""
  return sweep.seeds(at_rates(methods(), best_rates()), 3)
