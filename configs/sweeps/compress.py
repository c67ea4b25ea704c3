"""The runs of docs/studies/compress.md: the demo's model, with three seeds.

  moejax sweep --sweep=compress \
    --workdir=runs/compress --processes=2

32 routed experts of which a token uses 6, and two shared ones, in four layers,
trained on five domains for 500 steps.
"""

from moejax import sweep

DEMO = __file__.replace('sweeps/compress.py', 'tiny.py')


def get_sweep():
  """The demo, with the seeds 0, 1 and 2."""
  runs = sweep.run(
    DEMO,
    {
      'opt.peak_lr': 0.003,
      'train.save_best': False,
      'report.eval_batches': 2,
      'report.samples': False,
      'report.page': False,
      'report.trace_tokens': 0,
    },
    name='demo',
  )
  return sweep.seeds(runs, 3)
