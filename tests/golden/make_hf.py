"""Makes tiny random checkpoints with transformers, and what they answer.

  python tests/golden/make_hf.py make FOLDER [--seed=1] [family ...]
  python tests/golden/make_hf.py check FOLDER EXPECTED.npz
  python tests/golden/make_hf.py unpack FILE.npz
  python tests/golden/make_hf.py classes hf_classes.txt
  python tests/golden/make_hf.py float32 FOLDER

Needs torch and transformers (5.x), and nothing of moejax; the tests that read
what it makes need neither. The committed ones are those of seed 0; another seed
draws other shapes too. Of each family there are, in a folder of its name:

  config.json, model.safetensors   as transformers writes them, in bfloat16
  expected.npz
    token_BL     ids, the first of each row 0
    logits_BLV   float32
    experts_NBLK the chosen experts of each layer that has any, ascending
    loss         mean cross-entropy of token_BL[:, 1:] from token_BL[:, :-1]
    aux_loss     the balance loss, before its coefficient, if the class has one
    grad NAME    of that loss, by the name of the tensor
    new_BL       ids that follow each row, greedily
  and of a family with multi-token prediction, of its modules k = 1, 2:
    mtp_K_BLV    logits after all but the last k tokens
    mtp_loss     mean over modules of the sum of cross-entropies over [B, L - 1]
    mtp grad NAME
  memory/   config.json and model.safetensors once more, by the names that
            transformers holds in memory (save_original_format=False)

The committed ones have `memory` for two families.

`check` loads a folder with AutoModelForCausalLM and prints the largest
difference to the logits of the file, over their standard deviation. `unpack`
adds w to a file that has blocks and scales of MXFP4. `classes` writes the names
of all classes that answer for a causal language model. `float32` prints the
tensors that transformers holds in float32 when a folder is loaded in bfloat16.
"""

import argparse
import json
import pathlib
import sys

import numpy as np
import torch
import transformers
from safetensors.torch import load_file, save_file
from torch import nn
from transformers.modeling_layers import MtpModel

BATCH, LENGTH, NEW = 2, 12, 8
SINGLE = 'model.safetensors'
YARN = {
  'rope_type': 'yarn',
  'rope_theta': 10_000.0,
  'factor': 4.0,
  'original_max_position_embeddings': 8,
  'beta_fast': 4,
  'beta_slow': 1,
}


def sizes(rng):
  """What all families share; `rng` is None for the committed ones."""
  pick = lambda first, *rest: (
    first if rng is None else int(rng.choice([first, *rest]))
  )
  heads, head_dim = pick(4, 2, 6), pick(8, 4, 16)
  return {
    'vocab_size': pick(64, 48, 96),
    'hidden_size': heads * head_dim,
    'num_attention_heads': heads,
    'num_key_value_heads': pick(2, 1),
    'head_dim': head_dim,
    'num_hidden_layers': pick(2, 3),
    'intermediate_size': pick(16, 8, 24),
    'moe_intermediate_size': pick(8, 12, 16),
    'max_position_embeddings': 64,
    'initializer_range': 0.02,
    'experts': pick(8, 12),
    'k': pick(3, 2),
  }


def _less(found, *names, **more):
  names = *names, 'experts', 'k'
  return {k: v for k, v in found.items() if k not in names} | more


def olmoe(of):
  return transformers.OlmoeConfig(
    **_less(
      of,
      'head_dim',
      num_experts=of['experts'],
      num_experts_per_tok=of['k'],
      num_key_value_heads=of['num_attention_heads'],
      # torch gives the embedding of padding no gradient.
      pad_token_id=None,
      eos_token_id=None,
    )
  )


def qwen3_moe(of):
  return transformers.Qwen3MoeConfig(
    **_less(
      of,
      head_dim=of['head_dim'] + 2,
      num_hidden_layers=of['num_hidden_layers'] + 1,
      num_experts=of['experts'],
      num_experts_per_tok=of['k'],
      norm_topk_prob=True,
      mlp_only_layers=[0],
      rope_parameters={'rope_type': 'default', 'rope_theta': 1e6},
    )
  )


def qwen2_moe(of):
  return transformers.Qwen2MoeConfig(
    **_less(
      of,
      'head_dim',
      num_hidden_layers=4,
      num_experts=of['experts'],
      num_experts_per_tok=of['k'],
      decoder_sparse_step=2,
      # No multiple of an expert's.
      shared_expert_intermediate_size=2 * of['moe_intermediate_size'] + 2,
      num_key_value_heads=of['num_attention_heads'],
    )
  )


def mixtral(of):
  return transformers.MixtralConfig(
    **_less(
      of,
      'moe_intermediate_size',
      num_local_experts=of['experts'],
      num_experts_per_tok=2,
      sliding_window=5,
      tie_word_embeddings=True,
    )
  )


def deepseek(of):
  module = transformers.models.deepseek_ocr2
  layers = of['num_hidden_layers'] + 1
  return module.configuration_deepseek_ocr2.DeepseekOcr2TextConfig(
    **_less(
      of,
      num_hidden_layers=layers,
      num_key_value_heads=of['num_attention_heads'],
      n_routed_experts=of['experts'],
      n_shared_experts=2,
      num_experts_per_tok=of['k'],
      mlp_layer_types=['dense'] + ['sparse'] * (layers - 1),
      norm_topk_prob=False,
      routed_scaling_factor=1.0,
    )
  )


LATENT = {
  'kv_lora_rank': 12,
  'qk_nope_head_dim': 6,
  'qk_rope_head_dim': 4,
  'v_head_dim': 10,
  'n_shared_experts': 2,
  'first_k_dense_replace': 1,
}


def _latent(of, q_rank, **more):
  heads = of['num_attention_heads']
  names = 'head_dim', 'num_key_value_heads'
  more = LATENT | {'q_lora_rank': q_rank, 'num_key_value_heads': heads} | more
  more |= {'n_routed_experts': of['experts'], 'num_experts_per_tok': of['k']}
  return _less(of, *names, **more)


def deepseek_v2(of):
  return transformers.DeepseekV2Config(
    **_latent(
      of,
      None,
      topk_method='group_limited_greedy',
      n_group=4,
      topk_group=2,
      routed_scaling_factor=2.0,
      rope_parameters=YARN | {'mscale': 0.7, 'mscale_all_dim': 0.7},
    )
  )


def deepseek_v3(of):
  return transformers.DeepseekV3Config(
    **_latent(
      of,
      10,
      n_shared_experts=1,
      n_group=4,
      topk_group=2,
      routed_scaling_factor=2.5,
      norm_topk_prob=True,
      num_mtp_layers=2,
      # Not that of the norms of latent vectors, which no key says.
      rms_norm_eps=1e-4,
      rope_parameters=YARN | {'mscale': 1.0, 'mscale_all_dim': 1.0},
    )
  )


def dots1(of):
  return transformers.Dots1Config(
    **_less(
      of,
      'head_dim',
      vocab_size=of['vocab_size'] // 2,
      n_routed_experts=of['experts'],
      n_shared_experts=1,
      num_experts_per_tok=of['k'],
      first_k_dense_replace=1,
      norm_topk_prob=True,
      routed_scaling_factor=2.5,
      n_group=2,
      topk_group=1,
      sliding_window=5,
      max_window_layers=1,
    )
  )


def glm4_moe(of):
  # Half of the features turn, by the class's default.
  return transformers.Glm4MoeConfig(
    **_less(
      of,
      'head_dim',
      vocab_size=of['vocab_size'] // 2,
      n_routed_experts=of['experts'],
      num_experts_per_tok=of['k'],
      n_shared_experts=2,
      n_group=2,
      topk_group=1,
      use_qk_norm=True,
      attention_bias=True,
      routed_scaling_factor=2.5,
      num_mtp_layers=1,
      rms_norm_eps=1e-4,
    )
  )


def glm4_moe_lite(of):
  more = _latent(of, 10, vocab_size=of['vocab_size'] // 2, rms_norm_eps=1e-4)
  del more['first_k_dense_replace']
  return transformers.Glm4MoeLiteConfig(**more)


def ernie4_5_moe(of):
  return transformers.Ernie4_5_MoeConfig(
    **_less(
      of,
      'head_dim',
      vocab_size=of['vocab_size'] // 2,
      moe_num_experts=of['experts'],
      moe_k=of['k'],
      moe_num_shared_experts=2,
      num_hidden_layers=3,
      moe_layer_start_index=1,
      # torch gives the embedding of padding no gradient.
      pad_token_id=None,
      bos_token_id=None,
      eos_token_id=None,
    )
  )


def minimax_m2(of):
  return transformers.MiniMaxM2Config(
    **_less(
      of,
      'intermediate_size',
      'moe_intermediate_size',
      vocab_size=of['vocab_size'] // 2,
      intermediate_size=of['moe_intermediate_size'],
      num_local_experts=of['experts'],
      num_experts_per_tok=of['k'],
      rotary_dim=of['head_dim'] // 2,
      bos_token_id=None,
      eos_token_id=None,
    )
  )


def gpt_oss(of):
  return transformers.GptOssConfig(
    **_less(
      of,
      'moe_intermediate_size',
      num_local_experts=of['experts'],
      num_experts_per_tok=of['k'],
      sliding_window=5,
      layer_types=['sliding_attention', 'full_attention', 'sliding_attention'][
        : of['num_hidden_layers']
      ],
      rope_parameters=YARN
      | {'rope_theta': 150_000.0, 'truncate': False, 'attention_factor': 1.3},
    )
  )


def granitemoe(of):
  return transformers.GraniteMoeConfig(
    **_less(
      of,
      'moe_intermediate_size',
      'head_dim',
      num_local_experts=of['experts'],
      num_experts_per_tok=of['k'],
      embedding_multiplier=3,
      residual_multiplier=0.4,
      attention_multiplier=0.2,
      logits_scaling=1.5,
      tie_word_embeddings=True,
      bos_token_id=None,
      eos_token_id=None,
    )
  )


def flex_olmo(of):
  return transformers.FlexOlmoConfig(
    **_less(
      of,
      'moe_intermediate_size',
      'head_dim',
      num_experts=of['experts'],
      num_experts_per_tok=of['k'],
      pad_token_id=None,
      eos_token_id=None,
    )
  )


def hunyuan_v1_moe(of):
  rope = {'rope_type': 'dynamic', 'alpha': 8.0, 'factor': 1.0}
  return transformers.HunYuanMoEV1Config(
    **_less(
      of,
      'moe_intermediate_size',
      num_experts=of['experts'],
      moe_topk=of['k'],
      rope_parameters=rope | {'rope_theta': 10_000.0},
      pad_token_id=None,
      eos_token_id=None,
    )
  )


def olmo2(of):
  return transformers.Olmo2Config(
    **_less(
      of,
      'moe_intermediate_size',
      'head_dim',
      attention_bias=True,
      pad_token_id=None,
      eos_token_id=None,
    )
  )


def seed_oss(of):
  return transformers.SeedOssConfig(
    **_less(
      of,
      'moe_intermediate_size',
      attention_out_bias=True,
      pad_token_id=None,
      bos_token_id=None,
      eos_token_id=None,
    )
  )


def llama(of):
  rope = {
    'rope_type': 'llama3',
    'rope_theta': 5e5,
    'factor': 4.0,
    'low_freq_factor': 1.0,
    'high_freq_factor': 4.0,
    'original_max_position_embeddings': 16,
  }
  return transformers.LlamaConfig(
    **_less(of, 'moe_intermediate_size', rope_parameters=rope)
  )


def mistral(of):
  # Stretched from max_position_embeddings.
  rope = {'rope_type': 'yarn', 'rope_theta': 1e4, 'factor': 4.0}
  return transformers.MistralConfig(
    **_less(of, 'moe_intermediate_size', sliding_window=5, rope_parameters=rope)
  )


def ministral(of):
  return transformers.MinistralConfig(
    **_less(
      of,
      'moe_intermediate_size',
      vocab_size=of['vocab_size'] // 2,
      sliding_window=5,
      layer_types=['sliding_attention', 'full_attention', 'full_attention'][
        : of['num_hidden_layers']
      ],
    )
  )


def qwen2(of):
  return transformers.Qwen2Config(
    **_less(of, 'moe_intermediate_size', 'head_dim', tie_word_embeddings=True)
  )


def qwen3(of):
  pairs = of['head_dim'] // 2
  # The text is longer than that when a few tokens have been made.
  rope = {
    'rope_type': 'longrope',
    'rope_theta': 1e4,
    'short_factor': [1 + 0.25 * i for i in range(pairs)],
    'long_factor': [1 + 2.0 * i for i in range(pairs)],
    'original_max_position_embeddings': LENGTH + 2,
  }
  return transformers.Qwen3Config(
    **_less(
      of, 'moe_intermediate_size', attention_bias=True, rope_parameters=rope
    )
  )


def by_expert(named):
  """As releases have them: one tensor an expert, in bfloat16."""
  tensors = {}
  for name, x in named.items():
    x = x.detach().to(torch.bfloat16).clone()
    if '.experts.gate_up_proj' in name:
      for i, one in enumerate(x):
        base = name.replace('gate_up_proj', f'{i}')
        gate, up = one.chunk(2)
        tensors[f'{base}.gate_proj.weight'] = gate.contiguous()
        tensors[f'{base}.up_proj.weight'] = up.contiguous()
    elif '.experts.down_proj' in name:
      for i, one in enumerate(x):
        base = name.replace('down_proj', f'{i}')
        tensors[f'{base}.down_proj.weight'] = one.contiguous()
    else:
      tensors[name] = x
  return tensors


class OldDeepseek(nn.Module):
  """DeepSeekMoE-16B's model: the block of another class, and a head."""

  def __init__(self, config):
    super().__init__()
    module = transformers.models.deepseek_ocr2.modeling_deepseek_ocr2
    self.config = config
    self.model = module.DeepseekOcr2TextModel(config)
    self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)

  def forward(self, input_ids):
    hidden = self.model(input_ids=input_ids, use_cache=False)
    logits = self.lm_head(hidden.last_hidden_state)
    return transformers.modeling_outputs.CausalLMOutput(logits=logits)

  def generate(self, input_ids, max_new_tokens, **unused):
    for _ in range(max_new_tokens):
      new = self(input_ids).logits[:, -1:].argmax(-1)
      input_ids = torch.cat([input_ids, new], 1)
    return input_ids

  def save_pretrained(self, folder):
    """As the release has it, with its own model_type."""
    of = self.config
    folder.mkdir(parents=True, exist_ok=True)
    tensors = by_expert(self.state_dict())
    save_file(tensors, folder / SINGLE, {'format': 'pt'})
    names = [
      'vocab_size',
      'hidden_size',
      'num_attention_heads',
      'num_key_value_heads',
      'num_hidden_layers',
      'intermediate_size',
      'moe_intermediate_size',
      'max_position_embeddings',
      'n_routed_experts',
      'n_shared_experts',
      'num_experts_per_tok',
      'norm_topk_prob',
      'rms_norm_eps',
    ]
    config = {name: getattr(of, name) for name in names} | {
      'model_type': 'deepseek',
      'architectures': ['DeepseekForCausalLM'],
      'first_k_dense_replace': 1,
      'moe_layer_freq': 1,
      'scoring_func': 'softmax',
      'hidden_act': 'silu',
      'attention_bias': False,
      'rope_theta': of.rope_parameters['rope_theta'],
      'rope_scaling': None,
      'tie_word_embeddings': False,
    }
    text = json.dumps(config, indent=2, sort_keys=True) + '\n'
    (folder / 'config.json').write_text(text)


FAMILIES = {
  'deepseek': (deepseek, OldDeepseek),
  'deepseek_v2': (deepseek_v2, transformers.DeepseekV2ForCausalLM),
  'deepseek_v3': (deepseek_v3, transformers.DeepseekV3ForCausalLM),
  'dots1': (dots1, transformers.Dots1ForCausalLM),
  'ernie4_5_moe': (ernie4_5_moe, transformers.Ernie4_5_MoeForCausalLM),
  'glm4_moe': (glm4_moe, transformers.Glm4MoeForCausalLM),
  'glm4_moe_lite': (glm4_moe_lite, transformers.Glm4MoeLiteForCausalLM),
  'flex_olmo': (flex_olmo, transformers.FlexOlmoForCausalLM),
  'gpt_oss': (gpt_oss, transformers.GptOssForCausalLM),
  'granitemoe': (granitemoe, transformers.GraniteMoeForCausalLM),
  'hunyuan_v1_moe': (hunyuan_v1_moe, transformers.HunYuanMoEV1ForCausalLM),
  'llama': (llama, transformers.LlamaForCausalLM),
  'minimax_m2': (minimax_m2, transformers.MiniMaxM2ForCausalLM),
  'ministral': (ministral, transformers.MinistralForCausalLM),
  'mistral': (mistral, transformers.MistralForCausalLM),
  'mixtral': (mixtral, transformers.MixtralForCausalLM),
  'olmo2': (olmo2, transformers.Olmo2ForCausalLM),
  'olmoe': (olmoe, transformers.OlmoeForCausalLM),
  'qwen2': (qwen2, transformers.Qwen2ForCausalLM),
  'qwen2_moe': (qwen2_moe, transformers.Qwen2MoeForCausalLM),
  'qwen3': (qwen3, transformers.Qwen3ForCausalLM),
  'qwen3_moe': (qwen3_moe, transformers.Qwen3MoeForCausalLM),
  'seed_oss': (seed_oss, transformers.SeedOssForCausalLM),
}
GRADIENTS = (
  'embed_tokens.weight',
  'layers.0.self_attn.o_proj.weight',
  'layers.1.input_layernorm.weight',
  'layers.1.mlp.gate.weight',
  'layers.1.mlp.gate.wg.weight',
  'layers.1.mlp.router.weight',
  'layers.1.block_sparse_moe.router.weight',
  'layers.1.post_feedforward_layernorm.weight',
)


def scale(name, x):
  """Std of a tensor that keeps activations near 1 and routing alive."""
  if 'norm' in name or x.ndim == 1 or 'e_score' in name:
    return 0.2
  if 'embed_tokens' in name:
    return 1.0
  fan_in = x.shape[-1]
  if '.experts.' in name and x.ndim == 3:
    fan_in = min(x.shape[1:])
  router = name.endswith(('mlp.gate.weight', 'gate.wg.weight', 'router.weight'))
  return (3.0 if router else 1.5) / fan_in**0.5


@torch.no_grad()
def fill(model, generator):
  """Draws all weights, as numbers that bfloat16 has."""
  for name, x in [*model.named_parameters(), *model.named_buffers()]:
    if 'inv_freq' in name:
      continue
    start = 1.0 if 'norm' in name and name.endswith('weight') else 0.0
    drawn = start + scale(name, x) * torch.randn(x.shape, generator=generator)
    x.copy_(drawn.to(torch.bfloat16).float())


def watch(model):
  """Lists of what routers choose, filled by every later call."""
  found = []

  def hook(module, given, out):
    found.append(out[2].detach().sort(-1).values)

  for name, module in model.named_modules():
    if name.endswith(('mlp.gate', 'mlp.router', 'moe.router')):
      module.register_forward_hook(hook)
  return found


def predict(model, token_BL, generator):
  """What modules of multi-token prediction say, and their tensors.

  Module k reads the hidden states of the module before it, and the tokens that
  are k further on.
  """
  found, loss = {}, 0.0
  modules = MtpModel(model, model.config.num_mtp_layers).float().eval()
  modules.set_attn_implementation('eager')
  fill(modules.layers, generator)
  x_BLD = model.model(input_ids=token_BL).last_hidden_state
  for k in range(len(modules.layers)):
    place_BL = torch.arange(LENGTH - k - 1).expand(BATCH, -1)
    x_BLD = modules.forward_layer(
      k, x_BLD[:, :-1], place_BL, None, input_ids=token_BL[:, k + 1 :]
    )
    logits_BLV = modules._project_to_logits(x_BLD)
    found[f'mtp_{k + 1}_BLV'] = logits_BLV.detach().numpy()
    loss += nn.functional.cross_entropy(
      logits_BLV[:, :-1].reshape(-1, logits_BLV.shape[-1]),
      token_BL[:, k + 2 :].reshape(-1),
      reduction='sum',
    )
  loss = loss / len(modules.layers) / (BATCH * (LENGTH - 1))
  model.zero_grad()
  loss.backward()
  found['mtp_loss'] = loss.detach().numpy()
  tensors, shared = {}, model.model.embed_tokens.weight
  found['mtp grad model.embed_tokens.weight'] = shared.grad.numpy()
  for k, layer in enumerate(modules.layers):
    front = f'model.layers.{model.config.num_hidden_layers + k}.'
    for name, x in layer.state_dict().items():
      name = name.removeprefix('mtp_block.')
      tensors[front + name.replace('post_norm', 'shared_head.norm')] = x
    grad = layer.eh_proj.weight.grad
    found[f'mtp grad {front}eh_proj.weight'] = grad.numpy()
    tensors[front + 'embed_tokens.weight'] = shared
    tensors[front + 'shared_head.head.weight'] = model.lm_head.weight
  return found, tensors


def balance_loss(model, token_BL):
  """What the class adds to its loss when it is asked for router logits."""
  if not getattr(model.config, 'router_aux_loss_coef', 0):
    return {}
  with torch.no_grad():
    found = model(input_ids=token_BL, output_router_logits=True)
  loss = getattr(found, 'aux_loss', None)
  return {} if loss is None else {'aux_loss': loss.numpy()}


def make(family, folder, seed):
  rng = np.random.default_rng([seed, *family.encode()]) if seed else None
  make_config, cls = FAMILIES[family]
  config = make_config(sizes(rng))
  config._attn_implementation = 'eager'
  torch.manual_seed(0)
  model = cls(config).float().eval()
  generator = torch.Generator().manual_seed(seed + 1)
  fill(model, generator)
  vocab = config.vocab_size
  token_BL = torch.randint(1, vocab, (BATCH, LENGTH), generator=generator)
  token_BL[:, 0] = 0
  found = watch(model)
  logits_BLV = model(input_ids=token_BL).logits.float()
  loss = nn.functional.cross_entropy(
    logits_BLV[:, :-1].reshape(-1, vocab), token_BL[:, 1:].reshape(-1)
  )
  loss.backward()
  # DeepseekV2's router yields [T, K], as the others' do.
  experts_NBLK = torch.zeros((0, BATCH, LENGTH, 0))
  if found:
    experts_NBLK = torch.stack(found).reshape(len(found), BATCH, LENGTH, -1)
  if hasattr(model, 'generation_config'):
    model.generation_config = transformers.GenerationConfig(pad_token_id=0)
  with torch.no_grad():
    whole_BL = model.generate(
      token_BL,
      attention_mask=torch.ones_like(token_BL),
      max_new_tokens=NEW,
      do_sample=False,
    )
  folder.mkdir(parents=True, exist_ok=True)
  gradients = {
    f'grad {in_file(family, name)}': p.grad.numpy()
    for name, p in model.named_parameters()
    if name.endswith(GRADIENTS)
  }
  said, more = {}, {}
  if getattr(config, 'num_mtp_layers', 0):
    said, more = predict(model, token_BL, generator)
  np.savez_compressed(
    folder / 'expected.npz',
    token_BL=token_BL.numpy().astype(np.int32),
    logits_BLV=logits_BLV.detach().numpy(),
    experts_NBLK=experts_NBLK.numpy().astype(np.int32),
    loss=loss.detach().numpy(),
    **balance_loss(model, token_BL),
    new_BL=whole_BL[:, LENGTH:].numpy().astype(np.int32),
    **gradients,
    **said,
  )
  more = by_expert(more)
  model.to(torch.bfloat16).save_pretrained(folder)
  if isinstance(model, transformers.PreTrainedModel):
    model.save_pretrained(folder / 'memory', save_original_format=False)
    (folder / 'memory' / 'generation_config.json').unlink(missing_ok=True)
  if more:
    more |= load_file(folder / SINGLE)
    save_file(more, folder / SINGLE, {'format': 'pt'})
  (folder / 'generation_config.json').unlink(missing_ok=True)
  size = sum(f.stat().st_size for f in folder.iterdir() if f.is_file())
  say(f'{family}: {size / 1e3:.0f} kB, std {logits_BLV.std():.3f}')


def in_file(family, name):
  """The tensors of these are called otherwise in memory than in files."""
  if family in ('minimax_m2', 'mixtral'):
    name = name.replace('.mlp.', '.block_sparse_moe.')
  if family == 'granitemoe':
    name = name.replace('.router.', '.router.layer.')
  if family == 'ernie4_5_moe':
    name = name.replace('.gate.moe_statics.', '.moe_statics.')
  return name


def check(folder, expected):
  want = np.load(expected)
  model = transformers.AutoModelForCausalLM.from_pretrained(
    folder, dtype=torch.float32, attn_implementation='eager'
  )
  with torch.no_grad():
    token_BL = torch.from_numpy(want['token_BL']).long()
    got = model.eval()(input_ids=token_BL).logits.numpy()
  far = np.abs(got - want['logits_BLV']).max() / want['logits_BLV'].std()
  say(f'{type(model).__name__} {far:.2e}')


def unpack(file):
  from transformers.integrations import mxfp4

  given = dict(np.load(file))
  w = mxfp4.convert_moe_packed_tensors(
    torch.from_numpy(given['blocks']), torch.from_numpy(given['scales'])
  )
  np.savez(file, **given, w=w.float().numpy())


def classes(file):
  found = [n for n in dir(transformers) if n.endswith('ForCausalLM')]
  file.write_text('\n'.join(sorted(found)) + '\n')


def float32(folder):
  model = transformers.AutoModelForCausalLM.from_pretrained(
    folder, dtype=torch.bfloat16
  )
  for name, x in model.state_dict().items():
    if x.dtype == torch.float32:
      say(in_file(model.config.model_type, name))


def say(line):
  sys.stdout.write(line + '\n')


def main():
  flags = argparse.ArgumentParser(description=__doc__)
  alone = {'unpack': unpack, 'classes': classes, 'float32': float32}
  flags.add_argument('what', choices=['make', 'check', *alone])
  flags.add_argument('folder', type=pathlib.Path)
  flags.add_argument('names', nargs='*')
  flags.add_argument('--seed', type=int, default=0)
  args = flags.parse_args()
  torch.set_num_threads(1)
  if args.what in alone:
    alone[args.what](args.folder)
    return
  if args.what == 'check':
    check(args.folder, args.names[0])
    return
  for family in args.names or FAMILIES:
    make(family, args.folder / family, args.seed)


if __name__ == '__main__':
  main()
