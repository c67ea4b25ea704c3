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
class _SameInAllLayers(KeyMap):
  """A number, or a list with one number per layer, which must all be equal.

  Attributes:
    theirs: the key of config.json.
    ours: the dotted path of our key.
    also: other names of their key, which are read.
  """

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
    values = set(value) if isinstance(value, list) else {value}
    if len(values) != 1:
      raise errors.InputError(
        f'config.json has {self.theirs}={value}, but moejax has one number for '
        'all layers'
      )
    return {self.ours: values.pop()}

  def write(self, ours: Keys) -> dict[str, Any]:
    return {self.theirs: ours.get(self.ours)}


@dataclasses.dataclass(frozen=True)
class _Rotary(Rotary):
  """Reads `dynamic` scaling with an `alpha` as a larger base.

  The base is then rope_theta * alpha^(K / (K - 2)) at any length, with heads of
  width K.
  """

  def read(self, theirs: Keys) -> dict[str, Any]:
    scaling = theirs['rope_scaling'] or theirs['rope_parameters'] or {}
    kind = scaling.get('rope_type', scaling.get('type'))
    if kind == 'dynamic' and scaling.get('alpha'):
      dim = theirs['head_dim'] or family.square(theirs)
      theta = scaling.get('rope_theta', theirs['rope_theta'])
      theta *= scaling['alpha'] ** (dim / (dim - 2))
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
    _SameInAllLayers('moe_topk', 'moe.router.k', ('num_experts_per_tok',)),
    Ours('moe.router.renormalise', True),
    # The report of the model names no balance loss.
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
