"""FAMILIES: every kind of checkpoint by its model_type."""

from moejax.convert.families import (
  deepseek,
  dense,
  dots,
  ernie,
  glm,
  gpt_oss,
  minimax,
  mixtral,
  olmoe,
  qwen,
)
from moejax.convert.families.family import Family

FAMILIES = {
  'deepseek': deepseek.DEEPSEEK,
  'deepseek_v2': deepseek.DEEPSEEK_V2,
  'deepseek_v3': deepseek.DEEPSEEK_V3,
  'dots1': dots.DOTS1,
  'ernie4_5_moe': ernie.ERNIE4_5_MOE,
  'glm4_moe': glm.GLM4_MOE,
  'glm4_moe_lite': glm.GLM4_MOE_LITE,
  'gpt_oss': gpt_oss.GPT_OSS,
  # Another name of the same; its own code has the same keys.
  'kimi_k2': deepseek.DEEPSEEK_V3,
  'llama': dense.LLAMA,
  'minimax_m2': minimax.MINIMAX_M2,
  'ministral': dense.MINISTRAL,
  'mistral': dense.MISTRAL,
  'mixtral': mixtral.MIXTRAL,
  'olmoe': olmoe.OLMOE,
  'qwen2': dense.QWEN2,
  'qwen2_moe': qwen.QWEN2_MOE,
  'qwen3': dense.QWEN3,
  'qwen3_moe': qwen.QWEN3_MOE,
}

# What a model can be written as. Where nobody asks for another, the first that
# holds it is taken: what transformers has no class for is therefore the last.
FORMS: dict[str, Family] = {
  'olmoe': olmoe.OLMOE,
  'mixtral': mixtral.MIXTRAL,
  'qwen3_moe': qwen.QWEN3_MOE,
  'qwen2_moe': qwen.QWEN2_MOE,
  'qwen2_moe_ungated': qwen.QWEN2_MOE_UNGATED,
  'qwen2_moe_unshared': qwen.QWEN2_MOE_UNSHARED,
  'deepseek_v2': deepseek.DEEPSEEK_V2,
  'deepseek_v3': deepseek.DEEPSEEK_V3,
  'gpt_oss': gpt_oss.GPT_OSS,
  'dots1': dots.DOTS1,
  'glm4_moe': glm.GLM4_MOE,
  'glm4_moe_lite': glm.GLM4_MOE_LITE,
  'ernie4_5_moe': ernie.ERNIE4_5_MOE,
  'minimax_m2': minimax.MINIMAX_M2,
  'llama': dense.LLAMA,
  'mistral': dense.MISTRAL,
  'ministral': dense.MINISTRAL,
  'qwen2': dense.QWEN2,
  'qwen3': dense.QWEN3,
  'deepseek': deepseek.DEEPSEEK,
}
