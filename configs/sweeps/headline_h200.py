r"""Studies 1 and 2 with a hundred times the tokens, on one H200.

On a machine with the text pipeline, once; the packed records are 20 MB:

  MOEJAX_CACHE=records moejax cache --config=zoo

Copy the code and `records/` to the machine with the H200. It needs neither
TensorFlow nor SeqIO, and reads no text. (The text that ships with the project
could be packed there without them too.) There:

  export MOEJAX_CACHE=records XLA_PYTHON_CLIENT_PREALLOCATE=false
  moejax sweep --sweep=headline_h200 \
    --workdir=runs/h200 --processes=4
  python -m moejax.research.order --sweep=headline_h200 \
    --workdir=runs/h200 --out=runs/h200
  python -m moejax.research.redundancy --sweep=headline_h200 \
    --workdir=runs/h200 --out=runs/h200

The methods are those of Table 1 and Figure 3 of DeepSeekMoE (arXiv 2401.06066)
and the twin with gates nine times as large: eight, with three seeds. A run has
1,250 steps of 40,960 tokens, 51.2M tokens, a hundred times those of
configs/sweeps/studies.py; the 16 MB of text are read about twelve times.

Why it should take less than ten minutes; nothing here was measured:

  FLOPs      a token takes 10.4 MFLOP forward and backward
             (`moejax.plan.count.flops_per_token`), so the 24 runs take 1.3e16.
             In five minutes that is 43 TFLOP/s, 4% of the card's 989.
  memory     layers of width 128 are bound by memory, not by FLOPs. A token
             moves about 0.3 MB in bfloat16: four layers of 40 arrays forward
             and twice that backward, and 8,192 logits. That is 3.7e14 bytes, 77
             seconds at the card's 4.8 TB/s, and three minutes at half of it.
  programs   compiling takes about half a minute for each of the eight methods,
             on the host's cores, while other runs use the card; seeds 1 and 2
             take the programs of seed 0.

So four runs at a time share the card: alone, a run would leave it idle while it
starts and compiles. The learning rates are those chosen for the smaller runs;
whether the larger batch wants larger ones was not tried. The first seed comes
first, so a sweep that is stopped after some minutes has Table 1.
"""

from moejax import sweep
from moejax.config import user_files

STUDIES = __file__.replace('headline_h200.py', 'studies.py')
NAMES = (
  'dense',
  'hash',
  'switch',
  'gshard',
  'deepseek_moe',
  'shared_only',
  'half_fine',
  'deepseek_moe_sum_1',
)
ROWS = 320  # of 128 tokens
STEPS = 1250


def get_sweep():
  """Eight methods, three seeds."""
  studies = user_files.load(STUDIES, 'sweep')
  runs = studies.methods(NAMES, STEPS, at=())
  runs = sweep.change(
    runs,
    {
      'model.dtype': 'bfloat16',
      'train.batch_size': ROWS,
      'train.log_every': 50,
      'train.checkpoint_every': STEPS,
      'train.eval_every': STEPS,
      # 24 batches of the smaller runs have 192 rows.
      'report.eval_batches': 1,
    },
  )
  return sweep.seeds(studies.at_rates(runs, studies.best_rates()), 3)
