"""Smaller models that learn again, for docs/studies/compress.md.

  python -m moejax.research.compress --workdir=runs/compress --make
  moejax sweep --sweep=compress_recovery \
    --workdir=runs/compress_recovery --processes=2

The first command makes the smaller models of the runs of
configs/sweeps/compress.py, as runs/compress/SMALLER/RUN-METHOD. Here each is
trained for 120 steps on the text alone, and with the full model as its teacher.
"""

from moejax import sweep

RUNS = 'runs/compress'
SMALLER = 'smaller'  # the folder of the smaller models
# Removed by importance, removed at random, and merged at equal size.
METHODS = ('easy_ep', 'random', 'm_smoe_cut')
SEEDS = 3
STEPS = 120


def get_sweep():
  """Every smaller model, without and with a teacher."""
  runs = []
  for method in METHODS:
    for seed in range(SEEDS):
      full = f'demo-seed={seed}'
      folder = f'{RUNS}/{SMALLER}/{full}-{method}'
      for suffix, teacher in (('text', ''), ('teacher', f'{RUNS}/{full}')):
        runs += sweep.run(
          f'configs/hf/continue.py:{folder}',
          {
            'seed': seed,
            'train.distillation.teacher': teacher,
          },
          name=f'{method}-{suffix}-seed={seed}',
        )
  return sweep.change(
    runs,
    {
      'data.mixture': 'minipile',
      'model.dtype': 'auto',
      'opt.peak_lr': 0.001,
      'opt.schedule.name': 'cosine',
      'opt.schedule.warmup': 20,
      'opt.schedule.end': 0.05,
      'train.steps': STEPS,
      'train.save_best': False,
      'report.eval_batches': 2,
      'report.samples': False,
      'report.page': False,
      'report.trace_tokens': 0,
    },
  )
