"""Granite 3 MoE: Mixtral's experts, and constants that scale the model."""

import dataclasses
from typing import Any

from moejax.convert.families import family
from moejax.convert.keys import Key, KeyMap, Keys, Ours, want
from moejax.convert.rotary import Rotary
from moejax.convert.rules import Rule

_MOE = family.LAYER + 'block_sparse_moe.'


@dataclasses.dataclass(frozen=True)
class _Scores(KeyMap):
  """The factor of attention's scores.

  Ours is 0 for the usual 1 / sqrt(head_dim), which theirs writes out.
  """

  names = ('attention_multiplier',)

  def read(self, theirs: Keys) -> dict[str, Any]:
    return {'scales.scores': float(want(theirs, self.names[0]))}

  def write(self, ours: Keys) -> dict[str, Any]:
    scale = ours['scales.scores'] or ours['head_dim'] ** -0.5
    return {self.names[0]: scale}


GRANITE_MOE = family.Family(
  model_type='granitemoe',
  architecture='GraniteMoeForCausalLM',
  keys=(
    *family.COMMON,
    family.KV_HEADS_OR_ALL,
    family.HEAD_DIM_OR_SQUARE,
    Rotary(),
    family.BIASES,
    Key('embedding_multiplier', 'scales.embedding'),
    Key('residual_multiplier', 'scales.residual'),
    _Scores(),
    Key('logits_scaling', 'scales.logits'),
    Key('num_local_experts', 'moe.num_experts'),
    Key('intermediate_size', 'moe.expert_width'),
    family.K,
    Ours('moe.router.renormalise', True),
    *family.aux_loss(0.001),
  ),
  rules=(*family.OUTER, *family.NORMS, *family.GROUPED),
  experts={
    'stacked': (
      Rule(
        _MOE + 'input_linear.weight',
        'E (two F) D',
        family.W_IN,
        'E D two F',
      ),
      Rule(_MOE + 'output_linear.weight', 'E D F', family.W_OUT, 'E F D'),
      *family.router('block_sparse_moe.router.layer.'),
    ),
    'fused': (
      *(
        dataclasses.replace(
          rule, name=rule.name.replace('mlp.', 'block_sparse_moe.')
        )
        for rule in family.FUSED
      ),
      *family.router('block_sparse_moe.router.'),
    ),
  },
  defaults=family.USUAL
  | {
    'attention_bias': False,
    'attention_multiplier': 1.0,
    'embedding_multiplier': 1.0,
    'head_dim': None,
    'hidden_size': 4096,
    'intermediate_size': 11008,
    'logits_scaling': 1.0,
    'max_position_embeddings': 2048,
    'num_attention_heads': 32,
    'num_experts_per_tok': 2,
    'num_hidden_layers': 32,
    'num_key_value_heads': None,
    'num_local_experts': 8,
    'residual_multiplier': 1.0,
    'vocab_size': 32000,
  },
)
