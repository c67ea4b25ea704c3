"""DeepSeekMoE-16B as its release has it, of which transformers has no class."""

import json

import torch
import transformers
from safetensors.torch import save_file
from torch import nn

SINGLE = 'model.safetensors'


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
    config = self.config
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
    written = {name: getattr(config, name) for name in names} | {
      'model_type': 'deepseek',
      'architectures': ['DeepseekForCausalLM'],
      'first_k_dense_replace': 1,
      'moe_layer_freq': 1,
      'scoring_func': 'softmax',
      'hidden_act': 'silu',
      'attention_bias': False,
      'rope_theta': config.rope_parameters['rope_theta'],
      'rope_scaling': None,
      'tie_word_embeddings': False,
    }
    text = json.dumps(written, indent=2, sort_keys=True) + '\n'
    (folder / 'config.json').write_text(text)
