"""Every algorithm of the zoo by name, on one small model and one budget.

  moejax train --config=zoo:deepseek_v3
  moejax sweep --sweep=routers

An entry of ZOO states what its paper or release changes, at this size. All
entries have one budget: in each of the 4 layers the experts have 1,536 hidden
units, of which a token uses 192, as

  coarse       16 experts of 96, 2 per token
  single        8 experts of 192, 1 per token
  half_shared  15 experts of 96, 1 per token, and one that all tokens use
  fine         63 experts of 24, 7 per token, and one that all tokens use
  finest       64 experts of 24, 8 per token

So entries differ in how tokens and experts find each other. Experts are SwiGLU
and nothing is dropped, unless capacity or another kind of experts is part of
the algorithm. An entry that cannot have this budget says so. Coefficients are
the published ones where there are any, else 0.01.
"""

from moejax import config
from moejax.core import table

COARSE = {'num_experts': 16, 'expert_width': 96}
SINGLE = {'num_experts': 8, 'expert_width': 192}
FINE = {'num_experts': 63, 'expert_width': 24, 'num_shared': 1}
HALF_SHARED = {'num_experts': 15, 'expert_width': 96, 'num_shared': 1}
FINEST = {'num_experts': 64, 'expert_width': 24}

EXPERT_LEVEL = {'expert_level': {'alpha': 0.01}}
SEQUENCE_LEVEL = {'sequence_level': {'alpha': 0.01}}
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


def _layers(size):
  """Makes layers with experts of a size; `fields` are their other keys."""

  def layer(router, balance, **fields):
    return {**size, 'router': router, 'balance': balance, **fields}

  return layer


_coarse = _layers(COARSE)
_single = _layers(SINGLE)
_fine = _layers(FINE)
_half_shared = _layers(HALF_SHARED)
_finest = _layers(FINEST)


def _top_k(**fields):
  return {'name': 'top_k', **fields}


def _group_limited(**fields):
  # 7 groups of 9: the published 8 groups do not divide 63.
  return {'name': 'group_limited', 'num_groups': 7, **fields}


ZOO = {
  # Softmax and the k largest.
  'dense': {'num_experts': 0},
  'shazeer': _coarse(
    {'name': 'noisy_top_k', 'k': 2},
    VARIATION,
    scorer={'name': 'linear', 'start': 'zeros'},
  ),
  'grin': _coarse(
    {'name': 'sparse_mixer', 'k': 2, 'r': 0.01},
    {'expert_level': {'alpha': 0.001}},
  ),
  'v_moe': _coarse(
    {'name': 'noisy_top_k', 'k': 2, 'noise': {'name': 'fixed'}},
    {'importance': {'coefficient': 0.005}, 'load': {'coefficient': 0.005}},
    scorer={'name': 'linear', 'start': 'lecun'},
  ),
  'switch': _single(
    {'name': 'switch'},
    SWITCH,
    scorer={'name': 'linear', 'start': 'switch'},
    dispatcher=TRAIN_AND_EVAL,
  ),
  'gshard': _coarse(
    {'name': 'gshard'},
    {'gshard_aux': {'coefficient': 0.01}},
    dispatcher={'name': 'capacity', 'factor': 1.0},
  ),
  'gshard_praxis': _coarse(
    {'name': 'gshard', 'dropped_use_slot': False},
    {'gshard_aux': {'coefficient': 0.01}},
    dispatcher={'name': 'capacity', 'factor': 1.0},
  ),
  'st_moe': _coarse(
    {'name': 'gshard', 'second': {'name': 'ratio'}},
    {'gshard_aux': {'coefficient': 0.01}, 'z_loss': {'coefficient': 0.001}},
    dispatcher=OF_TOKENS,
  ),
  'mixtral': _coarse(_top_k(k=2, renormalise=True), _transformers(0.02)),
  'grok_1': _coarse(
    _top_k(k=2), EXPERT_LEVEL, scorer={'name': 'linear', 'start': 'zeros'}
  ),
  'olmoe': _finest(
    _top_k(k=8),
    # The z-loss is a mean over the 4 layers: 0.001 / 4.
    {**_transformers(0.01), 'z_loss': {'coefficient': 0.00025}},
  ),
  'qwen2_moe': _fine(_top_k(k=7), _transformers(0.001), shared={'gate': True}),
  'qwen3': _finest(_top_k(k=8, renormalise=True), _transformers(0.001)),
  'qwen3_next': _fine(
    _top_k(k=7, renormalise=True), _transformers(0.001), shared={'gate': True}
  ),
  # Biases come on top of the budget.
  'gpt_oss': _coarse(
    _top_k(k=2, after=True),
    _transformers(0.001),
    scorer={'name': 'linear', 'bias': True},
    experts={'name': 'clamped_swiglu'},
  ),
  'llama_4': _half_shared(
    _top_k(k=1, score='sigmoid', scales_input=True),
    {'expert_level': {'alpha': 0.001}},
  ),
  # DeepSeek.
  'deepseek_moe': _fine(_top_k(k=7), EXPERT_LEVEL),
  'deepseek_v2': _fine(
    _group_limited(k=7, kept_groups=3, scale=16.0),
    {
      'sequence_level': {'alpha': 0.003},
      'device_level': {'alpha': 0.05, 'num_groups': 7, 'over': 'sequence'},
      'communication': {'alpha': 0.02, 'num_groups': 7, 'groups_per_token': 3},
    },
  ),
  'deepseek_v3': _fine(
    _group_limited(
      k=7,
      score='sigmoid',
      renormalise=True,
      scale=2.5,
      kept_groups=4,
      group_score='top2_sum',
    ),
    V3_BALANCE,
  ),
  'deepseek_v4': _fine(
    # The first of 4 layers, as the first 3 of 43 and 61 in the release.
    {'name': 'hash_first', 'k': 7, 'num_hash_layers': 1},
    V3_BALANCE,
    experts={
      'name': 'clamped_swiglu',
      'bias': False,
      'limit': 10.0,
      'alpha': 1.0,
      'up_offset': 0.0,
    },
  ),
  'loss_free': _fine(_top_k(k=7, score='sigmoid'), LOSS_FREE),
  'loss_free_softmax': _fine(
    _top_k(k=7), {'loss_free': {'rate': 0.001, 'rule': 'proportional'}}
  ),
  'quantile': _fine(
    _top_k(k=7, score='sigmoid', renormalise=True, scale=2.5), {'quantile': {}}
  ),
  'kimi_k2': _fine(
    _top_k(k=7, score='sigmoid', renormalise=True, scale=2.827), LOSS_FREE
  ),
  'glm_4_5': _fine(
    _top_k(k=7, score='sigmoid', renormalise=True, scale=2.5), V3_BALANCE
  ),
  # Of the years 2024 to 2026.
  'moge': _fine(
    {'name': 'group_balanced', 'k': 7, 'num_groups': 7}, EXPERT_LEVEL
  ),
  'smebu': _fine(
    _top_k(k=7, score='sigmoid', renormalise=True),
    {'smebu': {'rate': 5e-4, 'kappa': 2.0, 'momentum': 0.5}},
  ),
  # A fifth of its steps in the paper's runs are of expert choice.
  'expert_threshold': _half_shared(
    {'name': 'expert_threshold', 'k': 1.0, 'warmup_steps': 20},
    {'threshold_ema': {'k': 1.0, 'decay': 0.99}},
  ),
  # Four times the experts at a quarter of the width; the two matrices around
  # them are in the budget, so that there are more of them and narrower ones.
  'latent_moe': {
    'num_experts': 72,
    'expert_width': 85,
    'latent_width': 32,
    'router': _top_k(k=8, score='sigmoid', renormalise=True),
    'balance': LOSS_FREE,
  },
  'zaya_1': _single(
    _top_k(k=1),
    {'adamw_bias': {'rate': 0.001}},
    scorer={'name': 'mlp', 'width': 32},
  ),
  'coupling': _finest(
    _top_k(k=8),
    {**EXPERT_LEVEL, 'coupling': {'coefficient': 1.0, 'alpha': 1.0}},
  ),
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
  'x_moe': _single(_top_k(k=1), SWITCH, scorer={'name': 'cosine'}),
  'perturbed_cosine': _coarse(
    _top_k(k=2, after=True), EXPERT_LEVEL, scorer={'name': 'perturbed_cosine'}
  ),
  'laplace': _coarse(
    _top_k(k=2, after=True),
    {'importance': {'coefficient': 0.01, 'unbiased': True}},
    scorer={'name': 'laplace'},
  ),
  'hyper_router': _coarse(
    _top_k(k=2, after=True), {}, scorer={'name': 'hyper'}
  ),
  'hmoe': _coarse(
    {'name': 'hierarchical', 'groups': 4, 'k_outer': 2, 'k_inner': 1},
    {'two_level': {'coefficient': 0.01, 'unbiased': True}},
  ),
  'hmoe_laplace': _coarse(
    {
      'name': 'hierarchical',
      'groups': 4,
      'k_outer': 2,
      'k_inner': 1,
      'outer': {'name': 'laplace'},
    },
    {'two_level': {'coefficient': 0.01, 'unbiased': True}},
    scorer={'name': 'laplace'},
  ),
  # Starts dense: more than the budget until the temperature has fallen.
  'evo_moe': _single(
    {'name': 'dense_to_sparse', 'decay_steps': 70, 'hard_from': 70},
    {'switch': {'alpha': 0.01, 'form': 'masked'}},
    scorer={'name': 'linear', 'start': 'pytorch'},
  ),
  # Starts dense; at its target only after some hundred steps.
  'remoe': _coarse({'name': 'remoe', 'k': 2.0}, {'adaptive_l1': {'k': 2.0}}),
  # Dense until its selectors have decided.
  'dselect_k': _coarse({'name': 'dselect_k', 'k': 2}, {'dselect_entropy': {}}),
  # As many experts as a token needs, on average about two in the paper.
  'dynamic_top_p': _coarse(
    {'name': 'top_p', 'p': 0.4, 'k': 2.0},
    {
      'switch': {'alpha': 0.01, 'form': 'multi_hot'},
      'token_entropy': {'coefficient': 1e-4},
    },
  ),
  # Tokens compete for experts, or do not choose them.
  'expert_choice': _coarse({'name': 'expert_choice', 'not_causal': True}, {}),
  'hash': _single({'name': 'hash'}, {}),
  'balanced_hash': _single({'name': 'balanced_hash', 'vocab_size': VOCAB}, {}),
  'base': _single({'name': 'base_layer'}, {}, scorer=ORTHOGONAL),
  's_base': _single({'name': 'sinkhorn', 'k': 1}, {}),
  'stable_moe': _single(
    {
      'name': 'stable_moe',
      'stage_two_from': 70,
      'student': {'name': 'token_embedding', 'vocab_size': VOCAB},
    },
    {'stable_moe': {}},
    scorer=ORTHOGONAL,
    dispatcher={'name': 'capacity', 'factor': 2.0},
  ),
  # Two passes a step: twice the cost of the others.
  'thor': _single({'name': 'thor'}, {}),
  'random': _coarse({'name': 'random', 'k': 2}, {}),
  'forced_balanced': _coarse({'name': 'forced_balanced', 'k': 2}, {}),
  # Experts of several kinds.
  'moe_pp': _coarse(
    _top_k(k=2),
    {'weighted': {'num_zero': 4}},
    zero_computation={'zero': 1, 'copy': 1, 'constant': 2},
    gating_residual=True,
    dispatcher={'name': 'capacity', 'factor': 1.1, 'tau': 0.75},
  ),
  'tc_moe': _coarse({'name': 'tc_moe', 'k': 2}, {'tc_moe': {}}),
  'longcat': _coarse(
    _top_k(k=3, scale=6.0),
    {
      'longcat_bias': {'num_zero': 8},
      'groups': {'num_groups': 4, 'num_zero': 8},
    },
    zero_computation={'copy': 8},
  ),
  'autonomy': _coarse(
    _top_k(k=2),
    # The authors' loss: k times expert_level.
    {'switch': {'alpha': 0.01, 'form': 'multi_hot'}},
    scorer={'name': 'expert_norm'},
    experts={'name': 'autonomous_swiglu'},
  ),
  # LibMoE's code where it is not its papers', to compare with its numbers.
  'libmoe_smoe': _finest(_top_k(k=8, renormalise=True), SEQUENCE_LEVEL),
  'libmoe_v2': _fine(_top_k(k=7, renormalise=True), SEQUENCE_LEVEL),
  'libmoe_v3': _fine(
    _top_k(k=7, score='sigmoid', renormalise=True),
    {'sequence_level': {'alpha': 0.01, 'probability': 'sigmoid'}},
  ),
  'libmoe_xmoe': _finest(
    _top_k(k=8, score='double_softmax', renormalise=True),
    SEQUENCE_LEVEL,
    scorer={
      'name': 'cosine',
      'learns_tau': False,
      'row_norm': 1.5,
      'in_place': True,
      'balance_tau': 0.0,
    },
  ),
}

# Algorithms without a routing: other kinds of feed-forward.
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
  """One algorithm, by default deepseek_moe; all other settings are the same."""
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
