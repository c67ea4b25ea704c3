"""The best learning rate of each method of studies.py.

Written by moejax.research.learning_rates.
"""

BEST_RATES = {
  'dense': 0.003,
  'hash': 0.003,
  'switch': 0.003,
  'gshard': 0.003,
  'deepseek_moe': 0.003,
  'shared_only': 0.003,
  'half_fine': 0.003,
  'smoe': 0.003,
  'smoe_sigmoid': 0.003,
  'v2': 0.003,
  'v3': 0.003,
  'xmoe': 0.003,
  'tc_moe': 0.003,
  'moe_pp': 0.003,
  'deepseek_moe_sum_1': 0.003,
  'half_fine_sum_1': 0.003,
  'shared_only_sum_1': 0.003,
  'top_2': 0.003,
  'top_2_small': 0.003,
  'deepseek_moe_sharp': 0.003,
}
