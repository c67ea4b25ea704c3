"""DeepSeekMoE 2B: 1.967B parameters, of which a token uses 0.316B.

  moejax count --config=ds_2b
  moejax train --config=ds_2b
  moejax train --config=ds_2b:tiny

The validation model of the paper (arXiv 2401.06066, section 4.1; beside
gshard_2b.py and dense_2b.py): 63 routed experts, top-7, and 1 shared expert in
every layer, each a quarter as wide as a standard feed-forward. 100B tokens
gave the paper a Pile loss of 1.808 (GShard 1.867, dense 2.060; Table 1) at 4.3T
FLOPs per 2K tokens, and HellaSwag 54.8. Here it was counted and run with
`:tiny` (a few steps on a laptop); not run at full size.

The 0.316B are without routers and norms; with them they are 0.317B.

Ours, where the paper is silent: SwiGLU, RMSNorm, rotary positions and untied
embeddings (as in the authors' 16B model), bfloat16 compute, and a public text
in place of their own. The vocabulary that is shipped was made from the
minipile; for a real run make one of the run's own text (`moejax
train_tokenizer`) and set data.vocab.path.
"""

from moejax import config


def get_config():
  """The paper's settings; what is ours is marked."""
  c = config.default()
  c.model.vocab_size = 8192
  c.model.max_length = 2048
  c.model.num_layers = 9
  c.model.first_dense = 0  # every layer has experts
  c.model.width = 1280
  c.model.num_heads = 10
  c.model.head_dim = 128
  c.model.tie_embeddings = False
  c.model.init_std = 0.006
  c.model.dtype = 'bfloat16'  # ours
  c.model.remat = 'matmuls'  # ours
  c.model.moe.num_experts = 63
  c.model.moe.num_shared = 1
  # A standard feed-forward has 8 D^2 parameters: three matrices D x 8/3 D. A
  # quarter of that is 853.33. With 853 the experts have 1.89B parameters, as
  # the paper prints; with 896, the next multiple of 64, they would have 1.98B.
  c.model.moe.expert_width = 853
  c.model.moe.router = {'name': 'top_k', 'k': 7, 'renormalise': False}
  c.model.moe.dispatcher = {'name': 'dropless'}
  # No device-level loss: all experts of a layer are on one device.
  c.model.moe.balance = {'expert_level': {'alpha': 0.01}}

  c.data.mixture = 'fineweb_edu'  # ours
  c.data.sequence_length = 2048

  c.opt.peak_lr = 1.08e-3
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

  c.train.steps = 25_000
  c.train.batch_size = 2048  # 4M tokens
  # Ours: changes nothing but memory.
  c.train.micro_batches = 8
  c.mesh.data = 1
  c.mesh.fsdp = -1
  c.train.checkpoint_every = 500
  c.train.eval_every = 500
  return c
