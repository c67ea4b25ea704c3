"""Peers of `benchmarks.step`: programs that train the same shape elsewhere.

Each is a program for `python -c`, because it may run in another environment
that has no moejax. Its argument is what `task` returns, as JSON. It prints one
line of JSON: `seconds` of each step, `peak_mb` of memory, and `what`, a
description with versions.
"""

import dataclasses
import json
import subprocess
import sys
from collections.abc import Sequence

from benchmarks.standard import Shape
from moejax.core import errors


@dataclasses.dataclass(frozen=True)
class Peer:
  """A program and the packages that it needs.

  Attributes:
    needs: modules that its Python must have.
    program: text of the program.
  """

  needs: tuple[str, ...]
  program: str


# Prints, as JSON, those of the modules in its arguments that are missing.
_MISSING = """
import importlib.util, json, sys
missing = [m for m in sys.argv[1:] if importlib.util.find_spec(m) is None]
print(json.dumps(missing))
"""


def check_python(python: str, needs: Sequence[str], flag: str) -> None:
  """Starts a Python for a moment, before anything is measured.

  Args:
    python: path of the Python that is to run a peer.
    needs: modules that it must have.
    flag: the flag that asks for the peer, for the message.

  Raises:
    InputError: it cannot be run, or a module is missing.
  """
  try:
    done = subprocess.run(
      [python, '-c', _MISSING, *needs],
      capture_output=True,
      text=True,
      check=False,
    )
  except OSError as e:
    raise errors.InputError(
      f'--peer_python={python} cannot be run: {e.strerror}'
    ) from None
  try:
    missing = json.loads(done.stdout)
  except ValueError:
    said = f'{done.stderr}{done.stdout}'.strip().splitlines() or ['no word']
    raise errors.InputError(
      f'--peer_python={python} is not a Python: it ended with code '
      f'{done.returncode} ({said[-1][-200:]})'
    ) from None
  if missing:
    lacks = f'{flag} needs {" and ".join(missing)}'
    if python == sys.executable:
      raise errors.InputError(
        f'{lacks}: install them here, or name a Python that has them with '
        '--peer_python'
      )
    raise errors.InputError(
      f'{lacks}, which --peer_python={python} does not have'
    )


def task(shape: Shape, steps: int, device: str) -> str:
  """What a peer is to train, as JSON.

  Args:
    shape: model and batch. The peer has one shared expert, which is as wide as
      all of ours together, and computes in `config.dtype` with weights in
      float32: transformers by autocast, MaxText by its own `dtype`.
    steps: number of timed steps.
    device: 'cpu' or 'cuda'. MaxText takes 'cpu' alone.
  """
  config, moe = shape.config, shape.config.moe
  return json.dumps({
    'steps': steps,
    'device': device,
    'dtype': config.dtype,
    'batch': (shape.rows, shape.length),
    'model': {
      'vocab_size': config.vocab_size,
      'hidden_size': config.width,
      'num_hidden_layers': config.num_layers,
      'num_attention_heads': config.num_heads,
      'num_key_value_heads': config.num_heads,
      'intermediate_size': shape.active_width,
      'moe_intermediate_size': moe.expert_width,
      'shared_expert_intermediate_size': moe.shared_width,
      'num_experts': moe.num_experts,
      'num_experts_per_tok': int(moe.experts_per_token),
      'max_position_embeddings': shape.length,
    },
  })


# Forward, backward, clipping and AdamW on one fixed batch, as `time_step` of
# benchmarks/step.py does. By default the peer computes no balance loss, which
# is in its favour.
_TRANSFORMERS = """
import json, resource, sys, time
import torch, transformers
task = json.loads(sys.argv[1])
torch.manual_seed(0)
config = transformers.Qwen2MoeConfig(
  norm_topk_prob=False, decoder_sparse_step=1, mlp_only_layers=[],
  tie_word_embeddings=False, use_cache=False, attention_dropout=0.0,
  **task['model'],
)
config._experts_implementation = 'grouped_mm'
config._attn_implementation = 'sdpa'
device = task['device']
model = transformers.Qwen2MoeForCausalLM(config).to(device).train()
opt = torch.optim.AdamW(
  model.parameters(), lr=1e-3, betas=(0.9, 0.95), weight_decay=0.1
)
rows, length = task['batch']
tokens = torch.randint(
  1, config.vocab_size, (rows, length), generator=torch.Generator()
).to(device)
autocast = torch.autocast(
  device, torch.bfloat16, enabled=task['dtype'] == 'bfloat16'
)
seconds = []
for i in range(2 + task['steps']):
  begin = time.perf_counter()
  with autocast:
    loss = model(input_ids=tokens, labels=tokens).loss
  loss.backward()
  torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
  opt.step()
  opt.zero_grad(set_to_none=True)
  loss.item()
  seconds.append(time.perf_counter() - begin)
if device == 'cuda':
  peak = torch.cuda.max_memory_allocated() / 2**20
else:
  peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
  peak /= 2**20 if sys.platform == 'darwin' else 2**10  # macOS counts bytes
what = f'Qwen2Moe, transformers {transformers.__version__}, torch '
what += f'{torch.__version__}, experts {config._experts_implementation}'
print(json.dumps({'seconds': seconds[2:], 'peak_mb': peak, 'what': what}))
"""

# MaxText's own trainer on its own synthetic batch: its config, its train state
# and its jitted `train_step`, compiled before the first step. The peer computes
# no balance loss, which is in its favour.
#
# The decoder block `deepseek` is the nearest to ours: shared experts beside the
# top-k of a softmax. It always has multi-head latent attention. With this rank
# of keys and values its projections have 2% fewer weights than ours.
#
# Every expert computes every token, and the outputs of experts that a token did
# not choose are multiplied by 0. Of MaxText's implementations that drop no
# token this one needs the least time on CPU: the other one sorts the tokens and
# calls `jax.lax.ragged_dot`, which took 1.6 times the CPU time of a step.
_MAXTEXT = """
import json, logging, os, resource, sys, tempfile, time
from importlib import metadata
task = json.loads(sys.argv[1])
if task['device'] != 'cpu':
  sys.exit('MaxText is measured on CPU alone, not on ' + task['device'])
os.environ['JAX_PLATFORMS'] = 'cpu'
os.environ['DECOUPLE_GCLOUD'] = 'TRUE'  # stubs instead of Google Cloud
logging.disable(logging.WARNING)
import maxtext
import jax
from flax import nnx
from flax.core.spmd import logical_axis_rules
from maxtext.configs import pyconfig
from maxtext.trainers.pre_train import train
from maxtext.utils import sharding, train_utils
sizes = task['model']
rows, length = task['batch']
width, heads = sizes['hidden_size'], sizes['num_attention_heads']
expert_width = sizes['moe_intermediate_size']
head_dim = width // heads
config = pyconfig.initialize(
  ['', os.path.join(os.path.dirname(maxtext.__file__), 'configs', 'base.yml')],
  run_name='peer',
  base_output_directory=tempfile.gettempdir(),
  hardware='cpu',
  skip_jax_distributed_system=True,
  enable_checkpointing=False,
  enable_tensorboard=False,
  log_config=False,
  dataset_type='synthetic',
  tokenizer_path='',
  per_device_batch_size=rows,
  max_target_length=length,
  dtype=task['dtype'],
  weight_dtype='float32',
  decoder_block='deepseek',
  vocab_size=sizes['vocab_size'],
  base_emb_dim=width,
  base_num_decoder_layers=sizes['num_hidden_layers'],
  first_num_dense_layers=0,
  base_num_query_heads=heads,
  base_num_kv_heads=heads,
  head_dim=head_dim,
  attention_type='mla',
  q_lora_rank=0,
  kv_lora_rank=width * 3 // 4,
  qk_nope_head_dim=head_dim // 2,
  qk_rope_head_dim=head_dim - head_dim // 2,
  v_head_dim=head_dim,
  base_mlp_dim=expert_width,
  base_moe_mlp_dim=expert_width,
  num_experts=sizes['num_experts'],
  num_experts_per_tok=sizes['num_experts_per_tok'],
  shared_experts=sizes['shared_expert_intermediate_size'] // expert_width,
  routed_score_func='softmax',
  sparse_matmul=False,
  capacity_factor=-1.0,
  remat_policy='minimal_with_context',
  scan_layers=False,
  enable_dropout=False,
  steps=1000,
  learning_rate=1e-3,
  opt_type='adamw',
  adam_b1=0.9,
  adam_b2=0.95,
  adam_weight_decay=0.1,
  gradient_clipping_threshold=1.0,
)
_, _, state_shardings, _, mesh, _, _, loader, _, _, state = (
  train_utils.setup_train_loop(config, None)
)
graph, state = nnx.split(state)
param_shardings, state_shardings = (
  sharding.maybe_update_params_sharding_with_opt(config, state_shardings)
)
train_step, _ = train_utils.jit_train_and_eval_step(
  config, graph, mesh, state, state_shardings, train.train_step,
  params_shardings=param_shardings,
)
batch = loader.load_next_batch()
seconds = []
with jax.set_mesh(mesh), logical_axis_rules(config.logical_axis_rules):
  compiled = train_step.lower(state, batch).compile()
  for i in range(2 + task['steps']):
    begin = time.perf_counter()
    state, metrics = compiled(state, batch)
    float(metrics['scalar']['learning/loss'])
    seconds.append(time.perf_counter() - begin)
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
peak /= 2**20 if sys.platform == 'darwin' else 2**10  # macOS counts bytes
what = 'deepseek block, maxtext ' + metadata.version('maxtext')
what += f', jax {jax.__version__}, every expert computes every token'
print(json.dumps({'seconds': seconds[2:], 'peak_mb': peak, 'what': what}))
"""

PEERS = {
  'maxtext': Peer(('flax', 'jax', 'maxtext'), _MAXTEXT),
  'transformers': Peer(('torch', 'transformers'), _TRANSFORMERS),
}
