"""A small DeepSeekMoE that learns five domains of real text on a laptop.

  moejax train --config=tiny --workdir=runs/tiny

Fine-grained experts (32 routed of width 96, top-6) and two isolated shared
experts in all four layers: 9.7M parameters, of which a token uses 4.0M. Every
layer has experts: with a dense first layer the demo would have one picture of
load less, and at this size the first layer is balanced no later than the rest.
"""

from moejax import config


def get_config():
  """The demo: a few minutes on two CPU cores."""
  c = config.default()
  c.model.dtype = 'auto'
  c.model.width = 192
  c.model.num_layers = 4
  c.model.num_heads = 6
  c.model.head_dim = 32
  c.model.vocab_size = 8192
  c.model.max_length = 256
  c.model.tie_embeddings = True
  c.model.scan_unroll = 4
  c.model.init_std = 0.02
  c.model.moe.num_experts = 32
  c.model.moe.expert_width = 96
  c.model.moe.num_shared = 2
  c.model.moe.router = {'name': 'top_k', 'k': 6}
  c.model.moe.balance = {'expert_level': {'alpha': 0.01}}

  c.data.mixture = 'minipile'
  c.data.sequence_length = 256

  c.opt.peak_lr = 3e-3
  c.opt.schedule = {'name': 'cosine', 'warmup': 40, 'end': 0.05}

  c.train.steps = 500
  c.train.batch_size = 8
  c.train.log_every = 10
  c.train.load_every = 20
  c.train.checkpoint_every = 100
  c.train.eval_every = 100
  c.train.eval_batches = 1
  return c
