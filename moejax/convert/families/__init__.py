"""FAMILIES: every kind of checkpoint by its model_type."""

from moejax.convert.families import (
  deepseek,
  dense,
  gpt_oss,
  mixtral,
  olmoe,
  qwen,
)
from moejax.convert.families.family import Family

FAMILIES = {
  'deepseek': deepseek.DEEPSEEK,
  'deepseek_v2': deepseek.DEEPSEEK_V2,
  'deepseek_v3': deepseek.DEEPSEEK_V3,
  'gpt_oss': gpt_oss.GPT_OSS,
  'llama': dense.LLAMA,
  'mistral': dense.MISTRAL,
  'mixtral': mixtral.MIXTRAL,
  'olmoe': olmoe.OLMOE,
  'qwen2': dense.QWEN2,
  'qwen2_moe': qwen.QWEN2_MOE,
  'qwen3': dense.QWEN3,
  'qwen3_moe': qwen.QWEN3_MOE,
}

# What a model can be written as, the first that holds it being taken where
# nobody asks for another. DeepSeekMoE is written as a Qwen2-MoE rather than as
# itself, since transformers has no class of the latter.
FORMS: dict[str, Family] = {
  'olmoe': olmoe.OLMOE,
  'mixtral': mixtral.MIXTRAL,
  'qwen3_moe': qwen.QWEN3_MOE,
  'qwen2_moe': qwen.QWEN2_MOE,
  'qwen2_moe_ungated': qwen.QWEN2_MOE_UNGATED,
  'deepseek': deepseek.DEEPSEEK,
  'deepseek_v2': deepseek.DEEPSEEK_V2,
  'deepseek_v3': deepseek.DEEPSEEK_V3,
  'gpt_oss': gpt_oss.GPT_OSS,
  'llama': dense.LLAMA,
  'mistral': dense.MISTRAL,
  'qwen2': dense.QWEN2,
  'qwen3': dense.QWEN3,
}
