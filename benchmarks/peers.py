"""Peers of `benchmarks.step`: programs that train the same shape elsewhere.

Each is a program for `python -c`, because it may run in another environment
that has no moejax. Its argument is what `task` returns, as JSON. It prints one
line of JSON: `seconds` of each step, `peak_mb` of memory, and `what`, a
description with versions.
"""

import dataclasses
import json

from benchmarks.standard import Shape


@dataclasses.dataclass(frozen=True)
class Peer:
  """A program and the packages that it needs.

  Attributes:
    needs: modules that its Python must have.
    program: text of the program.
  """

  needs: tuple[str, ...]
  program: str


def task(shape: Shape, steps: int, device: str) -> str:
  """What a peer is to train, as JSON.

  Args:
    shape: model and batch. The peer has one shared expert, which is as wide as
      all of ours together, and computes in `config.dtype`: bfloat16 by
      autocast, with weights in float32.
    steps: number of timed steps.
    device: 'cpu' or 'cuda'.
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

PEERS = {
  'transformers': Peer(('torch', 'transformers'), _TRANSFORMERS),
}
