"""The comparison of the DeepSeekMoE paper, small: nine models, three seeds.

  moejax sweep --sweep=headline --processes=2 \
    --out=docs/routers.md

Dense, hash, Switch, GShard and DeepSeekMoE (arXiv 2401.06066, Table 1), V2 and
V3, and the two ablations of its Figure 3 between GShard and DeepSeekMoE:
shared_only, where one of GShard's experts is shared, and half_fine, where
experts are also divided in two. All have the experts of configs/zoo.py: 1,536
hidden units a layer, 192 per token. As in the paper nothing is dropped, so
GShard and Switch are without capacity here. Seven of the methods are those of
configs/sweeps/studies.py, which says what each changes.
"""

from moejax import sweep
from moejax.config import user_files

STUDIES = __file__.replace('headline.py', 'studies.py')
NAMES = (
  'dense',
  'hash',
  'switch',
  'gshard',
  'deepseek_moe',
  'deepseek_v2',
  'deepseek_v3',
  'shared_only',
  'half_fine',
)
STEPS = 300


def get_sweep():
  """Three seeds of each."""
  methods = user_files.load(STUDIES, 'sweep').METHODS
  runs = []
  for name in NAMES:
    # V2 and V3 are entries of configs/zoo.py as they are.
    entry, changes = methods.get(name, (name, {}))
    runs += sweep.run(f'configs/zoo.py:{entry}', changes, name=name)
  runs = sweep.change(
    runs,
    {
      'train.steps': STEPS,
      'report.eval_batches': 24,
      'report.samples': 0,
    },
  )
  return sweep.seeds(runs, 3)
