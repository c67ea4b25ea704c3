"""Peers of `benchmarks.step`: programs that train the same shape elsewhere.

Each is a program for `python -c`, because it may run in another environment
that has no moejax. Its argument is the number of timed steps. It prints one
line of JSON: `seconds` of each step, `peak_mb` of memory, and `what`, a
description with versions.
"""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Peer:
  """A program and the packages that it needs.

  Attributes:
    needs: modules that its Python must have.
    program: text of the program.
  """

  needs: tuple[str, ...]
  program: str


# Forward, backward, clipping and AdamW on one fixed batch, as `time_step` of
# benchmarks/step.py does. By default the peer computes no balance loss, which
# is in its favour.
_TRANSFORMERS = """
import json, resource, sys, time
import torch, transformers
torch.manual_seed(0)
config = transformers.Qwen2MoeConfig(
  vocab_size=8192, hidden_size=256, num_hidden_layers=4,
  num_attention_heads=8, num_key_value_heads=8, intermediate_size=640,
  moe_intermediate_size=128, shared_expert_intermediate_size=128,
  num_experts=16, num_experts_per_tok=4, norm_topk_prob=False,
  decoder_sparse_step=1, mlp_only_layers=[], max_position_embeddings=256,
  tie_word_embeddings=False, use_cache=False, attention_dropout=0.0,
)
config._experts_implementation = 'grouped_mm'
config._attn_implementation = 'sdpa'
model = transformers.Qwen2MoeForCausalLM(config).train()
opt = torch.optim.AdamW(
  model.parameters(), lr=1e-3, betas=(0.9, 0.95), weight_decay=0.1
)
tokens = torch.randint(1, 8192, (8, 256))
seconds = []
for i in range(2 + int(sys.argv[1])):
  begin = time.perf_counter()
  loss = model(input_ids=tokens, labels=tokens).loss
  loss.backward()
  torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
  opt.step()
  opt.zero_grad(set_to_none=True)
  loss.item()
  seconds.append(time.perf_counter() - begin)
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
peak /= 2**20 if sys.platform == 'darwin' else 2**10  # macOS counts bytes
what = f'Qwen2Moe, transformers {transformers.__version__}, torch '
what += f'{torch.__version__}, experts {config._experts_implementation}'
print(json.dumps({'seconds': seconds[2:], 'peak_mb': peak, 'what': what}))
"""

PEERS = {
  'transformers': Peer(('torch', 'transformers'), _TRANSFORMERS),
}
