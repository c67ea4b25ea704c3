"""DeepSeekMoE 16B: 16.376B parameters, of which a token uses 2.829B.

  moejax count --config=ds_16b
  moejax plan --config=ds_16b --topology=v5p:4x4x4
  moejax train --config=ds_16b:tiny

Section 5 of the paper (arXiv 2401.06066): 64 routed experts, top-6, and 2
shared ones in all layers but the first, each a quarter as wide as a standard
feed-forward. It prints 16.4B and 2.8B parameters, and 74.4T FLOPs per 4K
tokens, which is with experts of the unrounded width (1365.33) and a first layer
like two of them; with the released widths, which are here, it is 75.8T. 2T
tokens gave the paper .74 bits per byte of the Pile, HellaSwag 77.1, MMLU 45.0.

Made for a TPU v5p slice of 4 x 4 x 4 chips; not run at full size.

Ours, where the paper is silent: compute in bfloat16, what is recomputed, the
mesh, and a public text. A vocabulary of 100K is for a real run to make
(`moejax train_tokenizer`; data.vocab.path). The released model of
the same shape is `configs/released.py:deepseek_moe_16b`.
"""

from moejax import config


def get_config():
  """The paper's settings; what is ours is marked."""
  c = config.default()
  c.model.vocab_size = 102_400
  c.model.max_length = 4096
  c.model.num_layers = 28
  c.model.first_dense = 1  # "its load balances slower"
  c.model.width = 2048
  c.model.num_heads = 16
  c.model.head_dim = 128
  c.model.dense_width = 10_944  # two standard ones, to the next multiple of 64
  c.model.tie_embeddings = False
  c.model.init_std = 0.006
  c.model.dtype = 'bfloat16'  # ours
  c.model.remat = 'full'  # ours
  c.model.moe.num_experts = 64
  c.model.moe.num_shared = 2
  c.model.moe.expert_width = 1408  # 1365.33, to the next multiple of 64
  c.model.moe.router = {'name': 'top_k', 'k': 6, 'renormalise': False}
  c.model.moe.dispatcher = {'name': 'dropless'}
  c.model.moe.balance = {'expert_level': {'alpha': 0.001}}

  c.data.mixture = 'fineweb_edu'  # ours
  c.data.sequence_length = 4096

  c.opt.peak_lr = 4.2e-4
  c.opt.beta1 = 0.9
  c.opt.beta2 = 0.95
  c.opt.weight_decay = 0.1
  c.opt.clip_norm = 1.0
  c.opt.schedule = {
    'name': 'steps',
    'warmup': 2000,
    'factor': 0.316,
    'milestones': (0.8, 0.9),
  }

  c.train.steps = 106_449
  c.train.batch_size = 4608  # 18M tokens
  # Ours, for 64 chips; see docs/plans.md. They change memory and time alone.
  c.train.micro_batches = 1
  c.model.token_chunks = 9  # of the 72 rows that a chip has
  c.mesh.data = 2
  c.mesh.fsdp = -1  # 32
  c.train.checkpoint_every = 500
  c.train.eval_every = 500
  return c
