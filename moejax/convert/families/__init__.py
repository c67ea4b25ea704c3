"""FAMILIES: the families of checkpoints that can be read, by model_type.

FORMS: the families as which a model can be written, by the value of --family.
"""

from moejax.convert.families import (
  deepseek,
  dense,
  dots,
  ernie,
  glm,
  gpt_oss,
  granite,
  hunyuan,
  minimax,
  mixtral,
  olmo2,
  olmoe,
  qwen,
  seed_oss,
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
  # Kimi-K2 is a DeepSeek-V3 by another name; its code has the same config keys.
  'kimi_k2': deepseek.DEEPSEEK_V3,
  'flex_olmo': olmo2.FLEX_OLMO,
  'granitemoe': granite.GRANITE_MOE,
  'hunyuan_v1_moe': hunyuan.HUNYUAN_V1_MOE,
  'llama': dense.LLAMA,
  'minimax_m2': minimax.MINIMAX_M2,
  'ministral': dense.MINISTRAL,
  'mistral': dense.MISTRAL,
  'mixtral': mixtral.MIXTRAL,
  'olmo2': olmo2.OLMO2,
  'olmoe': olmoe.OLMOE,
  'qwen2': dense.QWEN2,
  'qwen2_moe': qwen.QWEN2_MOE,
  'qwen3': dense.QWEN3,
  'qwen3_moe': qwen.QWEN3_MOE,
  'seed_oss': seed_oss.SEED_OSS,
}

# Without --family a model is written as the first of these that can hold it.
# `deepseek` is last because transformers has no class for it.
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
  'granitemoe': granite.GRANITE_MOE,
  'flex_olmo': olmo2.FLEX_OLMO,
  'hunyuan_v1_moe': hunyuan.HUNYUAN_V1_MOE,
  'llama': dense.LLAMA,
  'mistral': dense.MISTRAL,
  'ministral': dense.MINISTRAL,
  'qwen2': dense.QWEN2,
  'qwen3': dense.QWEN3,
  'olmo2': olmo2.OLMO2,
  'seed_oss': seed_oss.SEED_OSS,
  'deepseek': deepseek.DEEPSEEK,
}
