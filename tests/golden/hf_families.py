"""FAMILIES: the config of each family's tiny checkpoint, and its class.

A function of the sizes that all families share makes the config. It sets the
keys by which the family differs, to values that are not the class's defaults
where a test should see that they are read.
"""

import hf_old_deepseek
import transformers

# Tokens of a row.
LENGTH = 12
YARN = {
  'rope_type': 'yarn',
  'rope_theta': 10_000.0,
  'factor': 4.0,
  'original_max_position_embeddings': 8,
  'beta_fast': 4,
  'beta_slow': 1,
}


def shared_sizes(rng):
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


def _less(sizes, *names, **more):
  """The sizes without some keys, and with others."""
  names = *names, 'experts', 'k'
  return {k: v for k, v in sizes.items() if k not in names} | more


def olmoe(sizes):
  return transformers.OlmoeConfig(
    **_less(
      sizes,
      'head_dim',
      num_experts=sizes['experts'],
      num_experts_per_tok=sizes['k'],
      num_key_value_heads=sizes['num_attention_heads'],
      # torch gives the embedding of padding no gradient.
      pad_token_id=None,
      eos_token_id=None,
    )
  )


def qwen3_moe(sizes):
  return transformers.Qwen3MoeConfig(
    **_less(
      sizes,
      head_dim=sizes['head_dim'] + 2,
      num_hidden_layers=sizes['num_hidden_layers'] + 1,
      num_experts=sizes['experts'],
      num_experts_per_tok=sizes['k'],
      norm_topk_prob=True,
      mlp_only_layers=[0],
      rope_parameters={'rope_type': 'default', 'rope_theta': 1e6},
    )
  )


def qwen2_moe(sizes):
  return transformers.Qwen2MoeConfig(
    **_less(
      sizes,
      'head_dim',
      num_hidden_layers=4,
      num_experts=sizes['experts'],
      num_experts_per_tok=sizes['k'],
      decoder_sparse_step=2,
      # No multiple of an expert's.
      shared_expert_intermediate_size=2 * sizes['moe_intermediate_size'] + 2,
      num_key_value_heads=sizes['num_attention_heads'],
    )
  )


def mixtral(sizes):
  return transformers.MixtralConfig(
    **_less(
      sizes,
      'moe_intermediate_size',
      num_local_experts=sizes['experts'],
      num_experts_per_tok=2,
      sliding_window=5,
      tie_word_embeddings=True,
    )
  )


def deepseek(sizes):
  module = transformers.models.deepseek_ocr2
  layers = sizes['num_hidden_layers'] + 1
  return module.configuration_deepseek_ocr2.DeepseekOcr2TextConfig(
    **_less(
      sizes,
      num_hidden_layers=layers,
      num_key_value_heads=sizes['num_attention_heads'],
      n_routed_experts=sizes['experts'],
      n_shared_experts=2,
      num_experts_per_tok=sizes['k'],
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


def _latent(sizes, q_rank, **more):
  heads = sizes['num_attention_heads']
  names = 'head_dim', 'num_key_value_heads'
  more = LATENT | {'q_lora_rank': q_rank, 'num_key_value_heads': heads} | more
  more |= {
    'n_routed_experts': sizes['experts'],
    'num_experts_per_tok': sizes['k'],
  }
  return _less(sizes, *names, **more)


def deepseek_v2(sizes):
  return transformers.DeepseekV2Config(
    **_latent(
      sizes,
      None,
      topk_method='group_limited_greedy',
      n_group=4,
      topk_group=2,
      routed_scaling_factor=2.0,
      rope_parameters=YARN | {'mscale': 0.7, 'mscale_all_dim': 0.7},
    )
  )


def deepseek_v3(sizes):
  return transformers.DeepseekV3Config(
    **_latent(
      sizes,
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


def dots1(sizes):
  return transformers.Dots1Config(
    **_less(
      sizes,
      'head_dim',
      vocab_size=sizes['vocab_size'] // 2,
      n_routed_experts=sizes['experts'],
      n_shared_experts=1,
      num_experts_per_tok=sizes['k'],
      first_k_dense_replace=1,
      norm_topk_prob=True,
      routed_scaling_factor=2.5,
      n_group=2,
      topk_group=1,
      sliding_window=5,
      max_window_layers=1,
    )
  )


def glm4_moe(sizes):
  # Half of the features turn, by the class's default.
  return transformers.Glm4MoeConfig(
    **_less(
      sizes,
      'head_dim',
      vocab_size=sizes['vocab_size'] // 2,
      n_routed_experts=sizes['experts'],
      num_experts_per_tok=sizes['k'],
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


def glm4_moe_lite(sizes):
  more = _latent(
    sizes, 10, vocab_size=sizes['vocab_size'] // 2, rms_norm_eps=1e-4
  )
  del more['first_k_dense_replace']
  return transformers.Glm4MoeLiteConfig(**more)


def ernie4_5_moe(sizes):
  return transformers.Ernie4_5_MoeConfig(
    **_less(
      sizes,
      'head_dim',
      vocab_size=sizes['vocab_size'] // 2,
      moe_num_experts=sizes['experts'],
      moe_k=sizes['k'],
      moe_num_shared_experts=2,
      num_hidden_layers=3,
      moe_layer_start_index=1,
      # torch gives the embedding of padding no gradient.
      pad_token_id=None,
      bos_token_id=None,
      eos_token_id=None,
    )
  )


def minimax_m2(sizes):
  return transformers.MiniMaxM2Config(
    **_less(
      sizes,
      'intermediate_size',
      'moe_intermediate_size',
      vocab_size=sizes['vocab_size'] // 2,
      intermediate_size=sizes['moe_intermediate_size'],
      num_local_experts=sizes['experts'],
      num_experts_per_tok=sizes['k'],
      rotary_dim=sizes['head_dim'] // 2,
      bos_token_id=None,
      eos_token_id=None,
    )
  )


def gpt_oss(sizes):
  return transformers.GptOssConfig(
    **_less(
      sizes,
      'moe_intermediate_size',
      num_local_experts=sizes['experts'],
      num_experts_per_tok=sizes['k'],
      sliding_window=5,
      layer_types=['sliding_attention', 'full_attention', 'sliding_attention'][
        : sizes['num_hidden_layers']
      ],
      rope_parameters=YARN
      | {'rope_theta': 150_000.0, 'truncate': False, 'attention_factor': 1.3},
    )
  )


def granitemoe(sizes):
  return transformers.GraniteMoeConfig(
    **_less(
      sizes,
      'moe_intermediate_size',
      'head_dim',
      num_local_experts=sizes['experts'],
      num_experts_per_tok=sizes['k'],
      embedding_multiplier=3,
      residual_multiplier=0.4,
      attention_multiplier=0.2,
      logits_scaling=1.5,
      tie_word_embeddings=True,
      bos_token_id=None,
      eos_token_id=None,
    )
  )


def flex_olmo(sizes):
  return transformers.FlexOlmoConfig(
    **_less(
      sizes,
      'moe_intermediate_size',
      'head_dim',
      num_experts=sizes['experts'],
      num_experts_per_tok=sizes['k'],
      pad_token_id=None,
      eos_token_id=None,
    )
  )


def hunyuan_v1_moe(sizes):
  rope = {'rope_type': 'dynamic', 'alpha': 8.0, 'factor': 1.0}
  return transformers.HunYuanMoEV1Config(
    **_less(
      sizes,
      'moe_intermediate_size',
      num_experts=sizes['experts'],
      moe_topk=sizes['k'],
      rope_parameters=rope | {'rope_theta': 10_000.0},
      pad_token_id=None,
      eos_token_id=None,
    )
  )


def olmo2(sizes):
  return transformers.Olmo2Config(
    **_less(
      sizes,
      'moe_intermediate_size',
      'head_dim',
      attention_bias=True,
      pad_token_id=None,
      eos_token_id=None,
    )
  )


def seed_oss(sizes):
  return transformers.SeedOssConfig(
    **_less(
      sizes,
      'moe_intermediate_size',
      attention_out_bias=True,
      pad_token_id=None,
      bos_token_id=None,
      eos_token_id=None,
    )
  )


def llama(sizes):
  rope = {
    'rope_type': 'llama3',
    'rope_theta': 5e5,
    'factor': 4.0,
    'low_freq_factor': 1.0,
    'high_freq_factor': 4.0,
    'original_max_position_embeddings': 16,
  }
  return transformers.LlamaConfig(
    **_less(sizes, 'moe_intermediate_size', rope_parameters=rope)
  )


def mistral(sizes):
  # Stretched from max_position_embeddings.
  rope = {'rope_type': 'yarn', 'rope_theta': 1e4, 'factor': 4.0}
  return transformers.MistralConfig(
    **_less(
      sizes, 'moe_intermediate_size', sliding_window=5, rope_parameters=rope
    )
  )


def ministral(sizes):
  return transformers.MinistralConfig(
    **_less(
      sizes,
      'moe_intermediate_size',
      vocab_size=sizes['vocab_size'] // 2,
      sliding_window=5,
      layer_types=['sliding_attention', 'full_attention', 'full_attention'][
        : sizes['num_hidden_layers']
      ],
    )
  )


def qwen2(sizes):
  return transformers.Qwen2Config(
    **_less(
      sizes, 'moe_intermediate_size', 'head_dim', tie_word_embeddings=True
    )
  )


def qwen3(sizes):
  pairs = sizes['head_dim'] // 2
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
      sizes, 'moe_intermediate_size', attention_bias=True, rope_parameters=rope
    )
  )


FAMILIES = {
  'deepseek': (deepseek, hf_old_deepseek.OldDeepseek),
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
