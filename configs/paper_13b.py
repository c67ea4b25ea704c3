"""The 13B models of the DeepSeekMoE paper's appendix, and GShard beside them.

  moejax count --config=paper_13b:gshard_x1.5
  moejax train --config=paper_13b:tiny

Table 10 of arXiv 2401.06066, "larger" models trained on 100B tokens:

                experts      width  parameters         HellaSwag
  deepseek_moe  1 + 7 / 63   1/4    13.3B    2.05B     69.1
  gshard_x1.2   0 + 2 / 16   1.2    15.9B    2.37B     66.6
  gshard_x1.5   0 + 2 / 16   1.5    19.8B    2.85B     67.7

The table does not print depth and width: 24 layers of 2048 with the 2B models'
vocabulary give its numbers, which it calls those of the experts but which are
those of the whole models. It prints 2.82B active for gshard_x1.5; the rest of
the table agrees with 2.85B. All else as in ds_2b.py, learning rate included,
which is surely not the paper's. Counted and run with `:tiny`; not run at full
size.
"""

from moejax import config

GSHARD = {
  'model.moe.num_experts': 16,
  'model.moe.num_shared': 0,
  'model.moe.router': {'name': 'gshard'},
  'model.moe.balance': {'gshard_aux': {'coefficient': 0.01}},
}
VARIANTS = {
  'deepseek_moe': {'model.moe.expert_width': 1365},
  'gshard_x1.2': {**GSHARD, 'model.moe.expert_width': 6554},
  'gshard_x1.5': {**GSHARD, 'model.moe.expert_width': 8192},
}


def get_config(name):
  """As ds_2b.py, larger."""
  c = config.beside(__file__, 'ds_2b.py')
  c.model.num_layers = 24
  c.model.width = 2048
  c.model.num_heads = 16
  return config.vary(c, VARIANTS, name)
