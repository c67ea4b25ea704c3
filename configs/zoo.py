"""Every algorithm of the zoo by name, on one small model and one budget.

  python -m moejax.main --config=configs/zoo.py:deepseek_v3
  python -m moejax.cli.sweep --sweep=configs/sweeps/routers.py

Each entry of ZOO is what its paper or release changes, at this size. The budget
is the same for all: in each of the 4 layers experts with 1,536 hidden units, of
which a token uses 192, as

  coarse  16 experts of 96, 2 per token
  single   8 experts of 192, 1 per token
  fine    63 experts of 24, 7 per token, and a shared one that all tokens use

so that what differs is how tokens and experts find each other. Experts are
SwiGLU and nothing is dropped, unless capacity or another kind is part of the
algorithm. What cannot have this budget says so. Coefficients are the published
ones where there are any, else 0.01.
"""

from moejax import config
from moejax.core import table

COARSE = {'num_experts': 16, 'expert_width': 96}
SINGLE = {'num_experts': 8, 'expert_width': 192}
FINE = {'num_experts': 63, 'expert_width': 24, 'num_shared': 1}
FINEST = {'num_experts': 64, 'expert_width': 24}

EXPERT_LEVEL = {'expert_level': {'alpha': 0.01}}
SWITCH = {'switch': {'alpha': 0.01}}
LOSS_FREE = {'loss_free': {'rate': 0.001}}
V3_BALANCE = {**LOSS_FREE, 'sequence_level': {'alpha': 1e-4}}
VARIATION = {
  'importance': {'coefficient': 0.1},
  'load': {'coefficient': 0.1},
}
TRAIN_AND_EVAL = {'name': 'capacity', 'factor': 1.25, 'eval_factor': 2.0}
# The same, where the paper's factor is of tokens and each has two assignments.
OF_TOKENS = {'name': 'capacity', 'factor': 0.625, 'eval_factor': 1.0}
ORTHOGONAL = {'name': 'linear', 'start': 'orthogonal'}
VOCAB = 8192


def _transformers(coefficient):
  """The loss that transformers' classes weigh with router_aux_loss_coef.

  It is k times expert_level's, with f and P of the tokens of all layers, and
  counts once for the model, where expert_level's are added up over layers. So
  the published coefficient stands as it is. A loss for each layer, as strong
  where layers route alike, is expert_level with alpha = coefficient * k /
  layers: for Mixtral here 0.02 * 2 / 4 = 0.01.
  """
  return {
    'switch': {'alpha': coefficient, 'form': 'multi_hot', 'layers': 'together'}
  }


def _top_k(**fields):
  return {'name': 'top_k', **fields}


def _group_limited(**fields):
  # 7 groups of 9: the published 8 groups do not divide 63.
  return {'name': 'group_limited', 'num_groups': 7, **fields}


ZOO = {
  # Softmax and the k largest.
  'dense': {'num_experts': 0},
  'shazeer': {
    **COARSE,
    'router': {'name': 'noisy_top_k', 'k': 2},
    'scorer': {'name': 'linear', 'start': 'zeros'},
    'balance': VARIATION,
  },
  'grin': {
    **COARSE,
    'router': {'name': 'sparse_mixer', 'k': 2, 'r': 0.01},
    'balance': {'expert_level': {'alpha': 0.001}},
  },
  'v_moe': {
    **COARSE,
    'router': {'name': 'noisy_top_k', 'k': 2, 'noise': {'name': 'fixed'}},
    'scorer': {'name': 'linear', 'start': 'lecun'},
    'balance': {
      'importance': {'coefficient': 0.005},
      'load': {'coefficient': 0.005},
    },
  },
  'switch': {
    **SINGLE,
    'router': {'name': 'switch'},
    'scorer': {'name': 'linear', 'start': 'switch'},
    'dispatcher': TRAIN_AND_EVAL,
    'balance': SWITCH,
  },
  'gshard': {
    **COARSE,
    'router': {'name': 'gshard'},
    'dispatcher': {'name': 'capacity', 'factor': 1.0},
    'balance': {'gshard_aux': {'coefficient': 0.01}},
  },
  'gshard_praxis': {
    **COARSE,
    'router': {'name': 'gshard', 'dropped_use_slot': False},
    'dispatcher': {'name': 'capacity', 'factor': 1.0},
    'balance': {'gshard_aux': {'coefficient': 0.01}},
  },
  'st_moe': {
    **COARSE,
    'router': {'name': 'gshard', 'second': {'name': 'ratio'}},
    'dispatcher': OF_TOKENS,
    'balance': {
      'gshard_aux': {'coefficient': 0.01},
      'z_loss': {'coefficient': 0.001},
    },
  },
  'mixtral': {
    **COARSE,
    'router': _top_k(k=2, renormalise=True),
    'balance': _transformers(0.02),
  },
  'grok_1': {
    **COARSE,
    'router': _top_k(k=2),
    'scorer': {'name': 'linear', 'start': 'zeros'},
    'balance': EXPERT_LEVEL,
  },
  'olmoe': {
    **FINEST,
    'router': _top_k(k=8),
    # The z-loss is a mean over the 4 layers: 0.001 / 4.
    'balance': {**_transformers(0.01), 'z_loss': {'coefficient': 0.00025}},
  },
  'qwen2_moe': {
    **FINE,
    'router': _top_k(k=7),
    'shared': {'gate': True},
    'balance': _transformers(0.001),
  },
  'qwen3': {
    **FINEST,
    'router': _top_k(k=8, renormalise=True),
    'balance': _transformers(0.001),
  },
  'qwen3_next': {
    **FINE,
    'router': _top_k(k=7, renormalise=True),
    'shared': {'gate': True},
    'balance': _transformers(0.001),
  },
  # Biases come on top of the budget.
  'gpt_oss': {
    **COARSE,
    'router': _top_k(k=2, after=True),
    'scorer': {'name': 'linear', 'bias': True},
    'experts': {'name': 'clamped_swiglu'},
    'balance': _transformers(0.001),
  },
  'llama_4': {
    'num_experts': 15,
    'expert_width': 96,
    'num_shared': 1,
    'router': _top_k(k=1, score='sigmoid', scales_input=True),
    'balance': {'expert_level': {'alpha': 0.001}},
  },
  # DeepSeek.
  'deepseek_moe': {**FINE, 'router': _top_k(k=7), 'balance': EXPERT_LEVEL},
  'deepseek_v2': {
    **FINE,
    'router': _group_limited(k=7, kept_groups=3, scale=16.0),
    'balance': {
      'sequence_level': {'alpha': 0.003},
      'device_level': {'alpha': 0.05, 'num_groups': 7, 'over': 'sequence'},
      'communication': {
        'alpha': 0.02,
        'num_groups': 7,
        'groups_per_token': 3,
      },
    },
  },
  'deepseek_v3': {
    **FINE,
    'router': _group_limited(
      k=7,
      score='sigmoid',
      renormalise=True,
      scale=2.5,
      kept_groups=4,
      group_score='top2_sum',
    ),
    'balance': V3_BALANCE,
  },
  'deepseek_v4': {
    **FINE,
    # The first of 4 layers, as the first 3 of 43 and 61 in the release.
    'router': {'name': 'hash_first', 'k': 7, 'num_hash_layers': 1},
    'experts': {
      'name': 'clamped_swiglu',
      'bias': False,
      'limit': 10.0,
      'alpha': 1.0,
      'up_offset': 0.0,
    },
    'balance': V3_BALANCE,
  },
  'loss_free': {
    **FINE,
    'router': _top_k(k=7, score='sigmoid'),
    'balance': LOSS_FREE,
  },
  'loss_free_softmax': {
    **FINE,
    'router': _top_k(k=7),
    'balance': {'loss_free': {'rate': 0.001, 'rule': 'proportional'}},
  },
  'quantile': {
    **FINE,
    'router': _top_k(k=7, score='sigmoid', renormalise=True, scale=2.5),
    'balance': {'quantile': {}},
  },
  'kimi_k2': {
    **FINE,
    'router': _top_k(k=7, score='sigmoid', renormalise=True, scale=2.827),
    'balance': LOSS_FREE,
  },
  'glm_4_5': {
    **FINE,
    'router': _top_k(k=7, score='sigmoid', renormalise=True, scale=2.5),
    'balance': V3_BALANCE,
  },
  # Of the years 2024 to 2026.
  'moge': {
    **FINE,
    'router': {'name': 'group_balanced', 'k': 7, 'num_groups': 7},
    'balance': EXPERT_LEVEL,
  },
  'smebu': {
    **FINE,
    'router': _top_k(k=7, score='sigmoid', renormalise=True),
    'balance': {'smebu': {'rate': 5e-4, 'kappa': 2.0, 'momentum': 0.5}},
  },
  # A fifth of its steps in the paper's runs are of expert choice.
  'expert_threshold': {
    'num_experts': 15,
    'expert_width': 96,
    'num_shared': 1,
    'router': {'name': 'expert_threshold', 'k': 1.0, 'warmup_steps': 20},
    'balance': {'threshold_ema': {'k': 1.0, 'decay': 0.99}},
  },
  # Four times the experts at a quarter of the width; the two matrices around
  # them are in the budget, so that there are more of them and narrower ones.
  'latent_moe': {
    'num_experts': 72,
    'expert_width': 85,
    'latent_width': 32,
    'router': _top_k(k=8, score='sigmoid', renormalise=True),
    'balance': LOSS_FREE,
  },
  'zaya_1': {
    **SINGLE,
    'router': _top_k(k=1),
    'scorer': {'name': 'mlp', 'width': 32},
    'balance': {'adamw_bias': {'rate': 0.001}},
  },
  'coupling': {
    **FINEST,
    'router': _top_k(k=8),
    'balance': {
      **EXPERT_LEVEL,
      'coupling': {'coefficient': 1.0, 'alpha': 1.0},
    },
  },
  # Other scores.
  'sigma_moe': {
    'num_experts': 16,
    'expert_width': 144,  # two matrices where SwiGLU has three
    'router': _top_k(k=2, score='sigmoid', expert_dropout=0.1),
    # As published: sqrt(2 / layers) over sqrt(width).
    'scorer': {'name': 'linear', 'start': 'equal_norm', 'std': 0.0625},
    'experts': {
      'name': 'two_matrix',
      'activation': 'relu',
      'sigma_init': 0.7071,  # sqrt(2 / layers)
    },
    'balance': {'entropy': {'coefficient': 0.001}},
  },
  'x_moe': {
    **SINGLE,
    'router': _top_k(k=1),
    'scorer': {'name': 'cosine'},
    'balance': SWITCH,
  },
  'perturbed_cosine': {
    **COARSE,
    'router': _top_k(k=2, after=True),
    'scorer': {'name': 'perturbed_cosine'},
    'balance': EXPERT_LEVEL,
  },
  'laplace': {
    **COARSE,
    'router': _top_k(k=2, after=True),
    'scorer': {'name': 'laplace'},
    'balance': {'importance': {'coefficient': 0.01, 'unbiased': True}},
  },
  'hyper_router': {
    **COARSE,
    'router': _top_k(k=2, after=True),
    'scorer': {'name': 'hyper'},
    'balance': {},
  },
  'hmoe': {
    **COARSE,
    'router': {'name': 'hierarchical', 'groups': 4, 'k_outer': 2, 'k_inner': 1},
    'balance': {'two_level': {'coefficient': 0.01, 'unbiased': True}},
  },
  'hmoe_laplace': {
    **COARSE,
    'router': {
      'name': 'hierarchical',
      'groups': 4,
      'k_outer': 2,
      'k_inner': 1,
      'outer': {'name': 'laplace'},
    },
    'scorer': {'name': 'laplace'},
    'balance': {'two_level': {'coefficient': 0.01, 'unbiased': True}},
  },
  # Starts dense: more than the budget until the temperature has fallen.
  'evo_moe': {
    **SINGLE,
    'router': {
      'name': 'dense_to_sparse',
      'decay_steps': 70,
      'hard_from': 70,
    },
    'scorer': {'name': 'linear', 'start': 'pytorch'},
    'balance': {'switch': {'alpha': 0.01, 'form': 'masked'}},
  },
  # Starts dense; at its target only after some hundred steps.
  'remoe': {
    **COARSE,
    'router': {'name': 'remoe', 'k': 2.0},
    'balance': {'adaptive_l1': {'k': 2.0}},
  },
  # Dense until its selectors have decided.
  'dselect_k': {
    **COARSE,
    'router': {'name': 'dselect_k', 'k': 2},
    'balance': {'dselect_entropy': {}},
  },
  # As many experts as a token needs, on average about two in the paper.
  'dynamic_top_p': {
    **COARSE,
    'router': {'name': 'top_p', 'p': 0.4, 'k': 2.0},
    'balance': {
      'switch': {'alpha': 0.01, 'form': 'multi_hot'},
      'token_entropy': {'coefficient': 1e-4},
    },
  },
  # Tokens compete, or do not choose at all.
  'expert_choice': {
    **COARSE,
    'router': {'name': 'expert_choice', 'not_causal': True},
    'balance': {},
  },
  'hash': {**SINGLE, 'router': {'name': 'hash'}, 'balance': {}},
  'balanced_hash': {
    **SINGLE,
    'router': {'name': 'balanced_hash', 'vocab_size': VOCAB},
    'balance': {},
  },
  'base': {
    **SINGLE,
    'router': {'name': 'base_layer'},
    'scorer': ORTHOGONAL,
    'balance': {},
  },
  's_base': {**SINGLE, 'router': {'name': 'sinkhorn', 'k': 1}, 'balance': {}},
  'stable_moe': {
    **SINGLE,
    'router': {
      'name': 'stable_moe',
      'stage_two_from': 70,
      'student': {'name': 'token_embedding', 'vocab_size': VOCAB},
    },
    'scorer': ORTHOGONAL,
    'dispatcher': {'name': 'capacity', 'factor': 2.0},
    'balance': {'stable_moe': {}},
  },
  # Two passes a step: twice the cost of the others.
  'thor': {**SINGLE, 'router': {'name': 'thor'}, 'balance': {}},
  'random': {
    **COARSE,
    'router': {'name': 'random', 'k': 2},
    'balance': {},
  },
  'forced_balanced': {
    **COARSE,
    'router': {'name': 'forced_balanced', 'k': 2},
    'balance': {},
  },
  # Experts of several kinds.
  'moe_pp': {
    **COARSE,
    'router': _top_k(k=2),
    'zero_computation': {'zero': 1, 'copy': 1, 'constant': 2},
    'gating_residual': True,
    'dispatcher': {'name': 'capacity', 'factor': 1.1, 'tau': 0.75},
    'balance': {'weighted': {'num_zero': 4}},
  },
  'tc_moe': {
    **COARSE,
    'router': {'name': 'tc_moe', 'k': 2},
    'balance': {'tc_moe': {}},
  },
  'longcat': {
    **COARSE,
    'router': _top_k(k=3, scale=6.0),
    'zero_computation': {'copy': 8},
    'balance': {
      'longcat_bias': {'num_zero': 8},
      'groups': {'num_groups': 4, 'num_zero': 8},
    },
  },
  'autonomy': {
    **COARSE,
    'router': _top_k(k=2),
    'scorer': {'name': 'expert_norm'},
    'experts': {'name': 'autonomous_swiglu'},
    # The authors' loss: k times expert_level.
    'balance': {'switch': {'alpha': 0.01, 'form': 'multi_hot'}},
  },
  # LibMoE's code where it is not its papers', to compare with its numbers.
  'libmoe_smoe': {
    **FINEST,
    'router': _top_k(k=8, renormalise=True),
    'balance': {'sequence_level': {'alpha': 0.01}},
  },
  'libmoe_v2': {
    **FINE,
    'router': _top_k(k=7, renormalise=True),
    'balance': {'sequence_level': {'alpha': 0.01}},
  },
  'libmoe_v3': {
    **FINE,
    'router': _top_k(k=7, score='sigmoid', renormalise=True),
    'balance': {'sequence_level': {'alpha': 0.01, 'probability': 'sigmoid'}},
  },
  'libmoe_xmoe': {
    **FINEST,
    'router': _top_k(k=8, score='double_softmax', renormalise=True),
    'scorer': {
      'name': 'cosine',
      'learns_tau': False,
      'row_norm': 1.5,
      'in_place': True,
      'balance_tau': 0.0,
    },
    'balance': {'sequence_level': {'alpha': 0.01}},
  },
}

# Not routed at all: another kind of feed-forward.
OTHERS = {
  'soft_moe': {
    'name': 'soft_moe',
    'num_experts': 16,
    'expert_width': 96,
    'slots': 16,  # 256 slots for 128 tokens: 2 expert calls per token
    'not_causal': True,
  },
  # 48 x 48 neurons, 2 matrices: as many parameters as the others' experts, of
  # which 8 heads x 32 neurons are used.
  'peer': {'name': 'peer', 'num_keys': 48, 'k': 32, 'key_width': 64},
}
NAMES = sorted([*ZOO, *OTHERS])


def get_config(name):
  """One algorithm, deepseek_moe if none is named; all else is the same."""
  name = name or 'deepseek_moe'
  c = config.default()
  c.model.width = 128
  c.model.num_layers = 4
  c.model.num_heads = 4
  c.model.head_dim = 32
  c.model.dense_width = 192
  c.model.vocab_size = VOCAB
  c.model.max_length = 128
  c.model.tie_embeddings = True
  c.model.init_std = 0.02
  if name not in NAMES:
    raise table.unknown('zoo entry', name, NAMES)
  if name in OTHERS:
    c.model.feed_forward = OTHERS[name]
  else:
    for key, value in ZOO[name].items():
      c.model.moe[key] = value

  c.data.mixture = 'minipile'
  c.data.sequence_length = 128

  c.opt.peak_lr = 3e-3
  c.opt.schedule = {'name': 'cosine', 'warmup': 20, 'end': 0.05}

  c.train.steps = 100
  c.train.consistency = 1.0 if name == 'thor' else 0.0
  c.train.batch_size = 8
  c.train.log_every = 10
  c.train.checkpoint_every = 1000
  c.train.keep_checkpoints = 1
  c.train.eval_every = 1000
  c.train.eval_batches = 1
  return c
