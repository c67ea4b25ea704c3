"""DeepSeek-V3, V2 and V2-Lite with multi-head latent attention.

  moejax count --config=deepseek_v3
  moejax plan --config=deepseek_v3 \
    --topology=v5p:8x16x16
  moejax train --config=deepseek_v3:tiny,v2

The published settings (arXiv 2412.19437 and 2405.04434, and the released
configs). Parameters, and those of them that a token uses without the
embedding's lookup:

  v3       671B   37B
  v3_mtp   the same with its module of multi-token prediction, 11.6B more (the
           release prints 11.5B, without the matrix that joins its two inputs)
  v2       236B   21B
  v2_lite  15.7B  2.4B

In `v3` there is no multi-token prediction, in `v3_mtp` its weight is 0.3 to
the end (published: 0.1 after 10T tokens). Not here: V2's token dropping at the
level of devices, longer contexts after pre-training (yarn), and batch sizes
that grow during training: the batch is the largest, and steps are as many as
give the published number of tokens. The learning rate's last part (V3: 0.5T
tokens at a lower constant) is left out. V3 is made for a TPU v5p slice of 8 x
16 x 16 chips, as many as the paper has GPUs. Counted and run with `:tiny`; not
run at full size.
"""

from moejax import config


def _shape(layers, dense, width, heads, q_rank=0, **more):
  model = {
    'num_layers': layers,
    'first_dense': dense,
    'width': width,
    'num_heads': heads,
    'vocab_size': 102_400,
    'init_std': 0.006,
    'heads': {
      'name': 'latent',
      'kv_rank': 512,
      'q_rank': q_rank,
      'rope_dim': 64,
      'value_dim': 128,
    },
    **more,
  }
  return {f'model.{key}': value for key, value in model.items()}


def _moe(num, width, shared, router, balance):
  moe = {
    'num_experts': num,
    'expert_width': width,
    'num_shared': shared,
    'router': {'name': 'group_limited', **router},
    'balance': balance,
  }
  return {f'model.moe.{key}': value for key, value in moe.items()}


def _training(tokens, rows, rate, schedule):
  return {
    'train.steps': round(tokens / rows / 4096),
    'train.batch_size': rows,
    'opt.peak_lr': rate,
    'opt.schedule': schedule,
  }


def _steps(*milestones):
  return {
    'name': 'steps',
    'warmup': 2000,
    'factor': 0.316,
    'milestones': milestones,
  }


V3 = {
  **_shape(
    61, 3, 7168, 128, q_rank=1536, dense_width=18_432, vocab_size=129_280
  ),
  **_moe(
    256,
    2048,
    1,
    {
      'k': 8,
      'num_groups': 8,
      'kept_groups': 4,
      'group_score': 'top2_sum',
      'score': 'sigmoid',
      'renormalise': True,
      'scale': 2.5,
    },
    {'loss_free': {'rate': 0.001}, 'sequence_level': {'alpha': 1e-4}},
  ),
  # Constant to 10T of 14.3T tokens, then down to a tenth (there by a cosine).
  **_training(
    14.3e12,
    15_360,
    2.2e-4,
    {'name': 'warmup_stable_decay', 'warmup': 2000, 'decay': 0.3, 'end': 0.1},
  ),
  # Ours. 2,048 chips do not divide the batch; 1,024 groups of 2 chips do. On
  # 256 of them along fsdp each chip keeps whole experts.
  'mesh.data': 4,
  'mesh.model': 2,
}
V2 = {
  **_shape(60, 1, 5120, 128, q_rank=1536, dense_width=12_288),
  **_moe(
    160,
    1536,
    2,
    {'k': 6, 'num_groups': 8, 'kept_groups': 3, 'scale': 16.0},
    {
      'sequence_level': {'alpha': 0.003},
      'device_level': {'alpha': 0.05, 'num_groups': 8, 'over': 'sequence'},
      'communication': {'alpha': 0.02, 'num_groups': 8, 'groups_per_token': 3},
    },
  ),
  **_training(8.1e12, 9216, 2.4e-4, _steps(0.6, 0.9)),
}
V2_LITE = {
  **_shape(27, 1, 2048, 16, dense_width=10_944),
  **_moe(64, 1408, 2, {'k': 6}, {'sequence_level': {'alpha': 0.001}}),
  'model.moe.router': {'name': 'top_k', 'k': 6},
  **_training(5.7e12, 4608, 4.2e-4, _steps(0.8, 0.9)),
}
V3_MTP = {**V3, 'model.mtp_layers': 1, 'train.mtp_weight': 0.3}
VARIANTS = {'v3': V3, 'v3_mtp': V3_MTP, 'v2': V2, 'v2_lite': V2_LITE}


def get_config(name):
  """One of VARIANTS, by default v3, on the settings that all share."""
  c = config.default()
  c.model.max_length = 4096
  c.model.head_dim = 128
  c.model.rope.interleaved = True
  c.model.tie_embeddings = False
  c.model.dtype = 'bfloat16'  # V3 was trained in float8
  c.model.remat = 'full'
  c.model.moe.dispatcher = {'name': 'dropless'}

  c.data.mixture = 'fineweb_edu'
  c.data.sequence_length = 4096

  c.opt.beta1 = 0.9
  c.opt.beta2 = 0.95
  c.opt.weight_decay = 0.1
  c.opt.clip_norm = 1.0

  # Ours.
  c.mesh.data = 1
  c.mesh.fsdp = -1
  c.train.checkpoint_every = 500
  c.train.eval_every = 500
  return config.vary(c, VARIANTS, name)
