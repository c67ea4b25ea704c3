"""The 2B models of the DeepSeekMoE paper: 8 that it compares, 6 ablations.

  moejax count --config=paper_2b:gshard_x1.5
  moejax train --config=paper_2b:tiny,shared_2

All but the feed-forward is that of ds_2b.py, which is `deepseek_moe` here
(arXiv 2401.06066, section 4.1.3). Columns: shared + active of routed experts;
hidden width of one, relative to a standard feed-forward; parameters, active;
TFLOPs per 2K tokens; the paper's Pile loss.

                experts      width  parameters      TFLOPs  loss
  deepseek_moe  1 + 7 / 63   1/4    1.97B  0.32B   4.3    1.808
  dense                      1      0.20B  0.20B   2.9    2.060
  hash          0 + 1 / 16   1      1.97B  0.20B   2.9    1.932
  switch        0 + 1 / 16   1      1.97B  0.20B   2.9    1.881
  gshard        0 + 2 / 16   1      1.97B  0.32B   4.3    1.867
  gshard_x1.2   0 + 2 / 16   1.2    2.35B  0.36B   4.9    1.824  (Table 8)
  gshard_x1.5   0 + 2 / 16   1.5    2.91B  0.43B   5.8    1.808  (Table 2)
  dense_x4                   4      0.55B  0.55B   7.2    1.908  (Table 9)
  dense_x16                  16     1.97B  1.97B  24.6    1.806  (Table 2)
  shared_only   1 + 1 / 15   1      1.97B  0.32B   4.3           (Figure 3)
  half_fine     1 + 3 / 31   1/2    1.97B  0.32B   4.3           (Figure 3)
  shared_2      2 + 6 / 62   1/4    1.97B  0.32B   4.3    1.806  (section 4.4)
  shared_4      4 + 4 / 60   1/4    1.97B  0.32B   4.3    1.811  (section 4.4)
  half          1 + 3 / 63   1/4    1.97B  0.20B   2.9           (Figure 6)

The paper has no balance coefficient for its baselines; they have 0.01, like its
own model. `switch` is without capacity: the paper drops no token. Section 4.4
does not say how many routed experts there are beside 2 and 4 shared ones, but
that it is the finest segmentation, 64 experts in all, with the same number of
them active. Counted and run with `:tiny`; not run at full size.
"""

from moejax import config

DENSE = {'model.moe': {}}  # the default: no experts
COARSE = {
  'model.moe.num_experts': 16,
  'model.moe.num_shared': 0,
  'model.moe.expert_width': 3413,  # 8/3 D: 8 D^2 parameters
}
GSHARD = {
  **COARSE,
  'model.moe.router': {'name': 'gshard'},
  # The paper's coefficient for the 2B models; GShard's own is not printed.
  'model.moe.balance': {'gshard_aux': {'coefficient': 0.01}},
}


def _fine(shared, routed, k, width):
  return {
    'model.moe.num_shared': shared,
    'model.moe.num_experts': routed,
    'model.moe.router.k': k,
    'model.moe.expert_width': width,
  }


VARIANTS = {
  'deepseek_moe': {},
  'dense': {**DENSE, 'model.dense_width': 3413},
  'hash': {
    **COARSE,
    'model.moe.router': {'name': 'hash'},
    'model.moe.balance': {},
  },
  'switch': {
    **COARSE,
    'model.moe.router': {'name': 'switch'},
    'model.moe.balance': {'switch': {'alpha': 0.01}},
  },
  'gshard': GSHARD,
  'gshard_x1.2': {**GSHARD, 'model.moe.expert_width': 4096},
  'gshard_x1.5': {**GSHARD, 'model.moe.expert_width': 5120},
  'dense_x4': {**DENSE, 'model.dense_width': 13_653},
  'dense_x16': {**DENSE, 'model.dense_width': 54_613},
  'shared_only': _fine(1, 15, 1, 3413),
  'half_fine': _fine(1, 31, 3, 1707),
  'shared_2': _fine(2, 62, 6, 853),
  'shared_4': _fine(4, 60, 4, 853),
  'half': _fine(1, 63, 3, 853),
}


def get_config(name):
  """As ds_2b.py, but for what the variant changes."""
  c = config.beside(__file__, 'ds_2b.py')
  return config.vary(c, VARIANTS, name)
