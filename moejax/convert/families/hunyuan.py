"""Hunyuan-A13B: queries and keys are normalised after rotary positions."""

import dataclasses
from typing import Any

from moejax.convert.families import family
from moejax.convert.keys import Key, KeyMap, Keys, Ours, want
from moejax.convert.rotary import Rotary
from moejax.convert.rules import Rule
from moejax.core import errors

_ATTENTION = family.LAYER + 'self_attn.'


@dataclasses.dataclass(frozen=True)
class _Each(KeyMap):
  """A number that may be a list with one for each layer, all equal here."""

  theirs: str
  ours: str
  also: tuple[str, ...] = ()

  @property
  def names(self) -> tuple[str, ...]:
    return (self.theirs,)

  @property
  def aliases(self) -> tuple[str, ...]:
    return self.also

  def read(self, theirs: Keys) -> dict[str, Any]:
    value = want(theirs, self.theirs)
    each = set(value) if isinstance(value, list) else {value}
    if len(each) != 1:
      raise errors.InputError(
        f'config.json has {self.theirs}={value}, but moejax has one number for '
        'all layers'
      )
    return {self.ours: each.pop()}

  def write(self, ours: Keys) -> dict[str, Any]:
    return {self.theirs: ours.get(self.ours)}


@dataclasses.dataclass(frozen=True)
class _Rotary(Rotary):
  """A fixed `alpha` is a larger base: base * alpha^(K / (K - 2))."""

  def read(self, theirs: Keys) -> dict[str, Any]:
    found = theirs['rope_scaling'] or theirs['rope_parameters'] or {}
    kind = found.get('rope_type', found.get('type'))
    if kind == 'dynamic' and found.get('alpha'):
      dim = theirs['head_dim'] or family.square(theirs)
      theta = found.get('rope_theta', theirs['rope_theta'])
      theta *= found['alpha'] ** (dim / (dim - 2))
      plain = {'rope_type': 'default', 'rope_theta': theta}
      theirs = {**theirs, 'rope_scaling': plain}
    return super().read(theirs)


HUNYUAN_V1_MOE = family.Family(
  model_type='hunyuan_v1_moe',
  architecture='HunYuanMoEV1ForCausalLM',
  keys=(
    *family.COMMON,
    family.KV_HEADS_OR_ALL,
    family.HEAD_DIM_OR_SQUARE,
    _Rotary(),
    family.BIASES,
    Ours('qk_norm', 'head'),
    Ours('qk_norm_after_rope', True),
    Key('num_experts|num_local_experts', 'moe.num_experts'),
    Key('intermediate_size', 'moe.expert_width'),
    Ours('moe.num_shared', 1),
    _Each('moe_topk', 'moe.router.k', ('num_experts_per_tok',)),
    Ours('moe.router.renormalise', True),
    # Its report names none.
    Ours('moe.balance', {}),
  ),
  rules=(
    *family.OUTER,
    *family.NORMS,
    *family.GROUPED,
    *(
      Rule(
        f'{_ATTENTION}{name}_layernorm.weight',
        'K',
        f'{{stack}}/attention/norm_{name[0]}/scale_D',
        'K',
      )
      for name in ('query', 'key')
    ),
    *family.router('mlp.gate.wg.', float32=True),
    *family.swiglu('mlp.shared_mlp.', 'moe/ffn/shared'),
  ),
  experts={'by expert': family.experts(), 'fused': family.FUSED},
  defaults=family.USUAL
  | {
    'attention_bias': False,
    'head_dim': None,
    'hidden_size': 4096,
    'intermediate_size': 11008,
    'max_position_embeddings': 2048,
    'moe_topk': 1,
    'num_attention_heads': 32,
    'num_experts': 1,
    'num_hidden_layers': 32,
    'num_key_value_heads': None,
    'rms_norm_eps': 1e-5,
    'vocab_size': 290943,
  },
)
