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
  'llama': dense.LLAMA,
  'mistral': dense.MISTRAL,
  'qwen2': dense.QWEN2,
  'qwen3': dense.QWEN3,
  'deepseek': deepseek.DEEPSEEK,
}
