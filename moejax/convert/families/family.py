"""A family of Hugging Face models, and keys and rules that several share."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from moejax.convert.keys import Key, KeyMap, Keys, Only, Ours
from moejax.convert.rules import Rule

LAYER = 'model.layers.{layer}.'
# Tables of sines and cosines that older versions of transformers stored.
IGNORED = (r'.*\.rotary_emb\.inv_freq',)


@dataclasses.dataclass(frozen=True)
class Family:
  """A kind of checkpoint: its config keys and its tensors.

  Attributes:
    model_type: value of `model_type` in config.json.
    architecture: value of `architectures` in config.json: the class with which
      transformers loads the model.
    keys: maps between keys of config.json and ours.
    rules: rules of all tensors but those in `experts`.
    experts: rules of the routed experts, and of other tensors whose names
      differ between layouts, by layout. All layouts are read; the first one is
      written.
    ignored: regular expressions of names of tensors that are not weights of the
      model; they are not read.
    predicts: whether layers after the last one are modules of multi-token
      prediction.
    in_transformers: whether transformers has `architecture`; if not, it is the
      class of the release's own code.
    defaults: values of keys that a config.json leaves out: the defaults of the
      configuration class in transformers. None marks a key that the class
      computes from other keys.
  """

  model_type: str
  architecture: str
  keys: tuple[KeyMap, ...]
  rules: tuple[Rule, ...]
  experts: dict[str, tuple[Rule, ...]]
  ignored: tuple[str, ...] = IGNORED
  predicts: bool = False
  in_transformers: bool = True
  defaults: Mapping[str, Any] = dataclasses.field(default_factory=dict)

  @property
  def aliases(self) -> dict[str, str]:
    """The first name of a key by each of its other names."""
    return {
      alias: key_map.names[0]
      for key_map in self.keys
      for alias in key_map.aliases
    }


def square(theirs: Keys) -> int:
  """Width of a head if all heads together are as wide as the model."""
  return theirs['hidden_size'] // theirs['num_attention_heads']


def heads(theirs: Keys) -> int:
  """Number of query heads: that of key-value heads if no other is set."""
  return theirs['num_attention_heads']


def aux_loss(coefficient: float, form: str = 'multi_hot') -> tuple[KeyMap, ...]:
  """The balance loss of transformers' Mixtral and of classes derived from it.

  It is the Switch loss over the tokens of all layers together; docs/moe.md,
  "The loss of transformers".

  Args:
    coefficient: `router_aux_loss_coef` of the release or, if the release has
      none, of its class.
    form: 'of_logits' for routers that do not choose the experts of the largest
      softmax probabilities: the loss then takes the top k of the logits.
  """
  return (
    Ours('moe.balance.switch.alpha', coefficient),
    Ours('moe.balance.switch.form', form),
    Ours('moe.balance.switch.layers', 'together'),
  )


COMMON = (
  Key('vocab_size', 'vocab_size'),
  Key('max_position_embeddings', 'max_length'),
  Key('num_hidden_layers', 'num_layers'),
  Key('hidden_size', 'width'),
  Key('num_attention_heads', 'num_heads'),
  Key('tie_word_embeddings', 'tie_embeddings'),
  Key('initializer_range', 'init_std'),
  Key('rms_norm_eps', 'norm_eps'),
  Only('hidden_act', 'silu'),
)
# The defaults that most classes have for the keys of COMMON and for rotary
# positions.
USUAL = {
  'hidden_act': 'silu',
  'initializer_range': 0.02,
  'partial_rotary_factor': None,
  'original_max_position_embeddings': None,
  'rms_norm_eps': 1e-6,
  'rope_parameters': None,
  'rope_scaling': None,
  'rope_theta': 10_000.0,
  'tie_word_embeddings': False,
}
KV_HEADS = Key('num_key_value_heads', 'num_kv_heads')
# For classes in which null means as many key-value heads as query heads.
KV_HEADS_OR_ALL = Key('num_key_value_heads', 'num_kv_heads', null=heads)
HEAD_DIM = Key('head_dim', 'head_dim')
HEAD_DIM_OR_SQUARE = Key('head_dim', 'head_dim', null=square)
DENSE_WIDTH = Key('intermediate_size', 'dense_width')
EXPERT_WIDTH = Key('moe_intermediate_size', 'moe.expert_width')
K = Key('num_experts_per_tok', 'moe.router.k')
RENORMALISE = Key('norm_topk_prob', 'moe.router.renormalise')
# The router of DeepSeek-V3: sigmoid scores; the score of a group is the sum of
# those of its two best experts.
GROUPED_ROUTER = (
  Ours('moe.router.name', 'group_limited'),
  Ours('moe.router.score', 'sigmoid'),
  Ours('moe.router.group_score', 'top2_sum'),
  Key('n_group', 'moe.router.num_groups'),
  Key('topk_group', 'moe.router.kept_groups'),
)
BIASES = Key('attention_bias', 'qkv_bias', also=('out_bias',))

OUTER = (
  Rule('model.embed_tokens.weight', 'V D', 'embed_VD', 'V D'),
  Rule('model.norm.weight', 'D', 'norm/scale_D', 'D'),
  Rule('lm_head.weight', 'V D', 'head_DV', 'D V'),
)
NORMS = (
  Rule(
    LAYER + 'input_layernorm.weight',
    'D',
    '{stack}/norm_attention/scale_D',
    'D',
  ),
  Rule(
    LAYER + 'post_attention_layernorm.weight',
    'D',
    '{stack}/norm_ffn/scale_D',
    'D',
  ),
)


def _attention(name: str, theirs: str, ours: str, pattern: str) -> Rule:
  name, path = f'{LAYER}self_attn.{name}', '{stack}/attention/' + ours
  return Rule(name, theirs, path, pattern)


GROUPED = (
  _attention('q_proj.weight', '(H K) D', 'w_q_DHK', 'D H K'),
  _attention('k_proj.weight', '(G K) D', 'w_k_DGK', 'D G K'),
  _attention('v_proj.weight', '(G K) D', 'w_v_DGK', 'D G K'),
  _attention('o_proj.weight', 'D (H K)', 'w_o_HKD', 'H K D'),
  _attention('q_proj.bias', '(H K)', 'b_q_HK', 'H K'),
  _attention('k_proj.bias', '(G K)', 'b_k_GK', 'G K'),
  _attention('v_proj.bias', '(G K)', 'b_v_GK', 'G K'),
  _attention('o_proj.bias', 'D', 'b_o_D', 'D'),
)
NORM_BY_HEAD = (
  _attention('q_norm.weight', 'K', 'norm_q/scale_D', 'K'),
  _attention('k_norm.weight', 'K', 'norm_k/scale_D', 'K'),
)
NORM_OF_ALL = (
  _attention('q_norm.weight', '(H K)', 'norm_q/scale_HK', 'H K'),
  _attention('k_norm.weight', '(G K)', 'norm_k/scale_HK', 'G K'),
)
SINKS = (_attention('sinks', 'H', 'sink_H', 'H'),)
LATENT = (
  _attention('q_proj.weight', '(H K) D', 'w_q_DHK', 'D H K'),
  _attention('q_a_proj.weight', 'Q D', 'w_dq_DQ', 'D Q'),
  _attention('q_a_layernorm.weight', 'Q', 'norm_q/scale_D', 'Q'),
  _attention('q_b_proj.weight', '(H K) Q', 'w_uq_QHK', 'Q H K'),
  _attention('kv_a_proj_with_mqa.weight', 'R D', 'w_dkv_DR', 'D R'),
  _attention('kv_a_layernorm.weight', 'R', 'norm_kv/scale_D', 'R'),
  _attention('kv_b_proj.weight', '(H K) R', 'w_ukv_RHK', 'R H K'),
  _attention('o_proj.weight', 'D (H V)', 'w_o_HVD', 'H V D'),
)


def swiglu(base: str, path: str) -> tuple[Rule, ...]:
  """Rules of a dense feed-forward, which ours stores as a single expert.

  Args:
    base: prefix of their names within a layer, such as 'mlp.'.
    path: path of our weights, without their names.
  """
  w_in, w_out = f'{path}/w_in_ED2F', f'{path}/w_out_EFD'
  return (
    Rule(f'{LAYER}{base}gate_proj.weight', 'F D', w_in, '0 D 0 F'),
    Rule(f'{LAYER}{base}up_proj.weight', 'F D', w_in, '0 D 1 F'),
    Rule(f'{LAYER}{base}down_proj.weight', 'D F', w_out, '0 F D'),
  )


DENSE = swiglu('mlp.', 'dense/ffn/w')
W_IN, W_OUT = 'moe/ffn/routed/w_in_ED2F', 'moe/ffn/routed/w_out_EFD'


def experts(
  base: str = 'mlp.experts.', gate='gate_proj', up='up_proj', down='down_proj'
) -> tuple[Rule, ...]:
  """Rules of routed experts that are stored as three tensors each.

  Args:
    base: prefix of their names within a layer; the expert's number follows.
    gate: name of the projection to the gate half of the hidden units.
    up: name of the projection to the other half.
    down: name of the output projection.
  """
  base = LAYER + base + '{E}.'
  return (
    Rule(f'{base}{gate}.weight', 'F D', W_IN, 'E D 0 F'),
    Rule(f'{base}{up}.weight', 'F D', W_IN, 'E D 1 F'),
    Rule(f'{base}{down}.weight', 'D F', W_OUT, 'E F D'),
  )


# Routed experts as transformers 5 holds them in memory, and as it writes them
# with save_pretrained(save_original_format=False).
FUSED = (
  Rule(LAYER + 'mlp.experts.gate_up_proj', 'E (two F) D', W_IN, 'E D two F'),
  Rule(LAYER + 'mlp.experts.down_proj', 'E D F', W_OUT, 'E F D'),
)


def router(name: str = 'mlp.gate.', float32: bool = False) -> tuple[Rule, ...]:
  """Rules of a router's matrix and bias.

  Args:
    name: prefix of their names within a layer.
    float32: see `Rule.float32`.
  """
  w, b = 'moe/ffn/router/w_DE', 'moe/ffn/router/b_E'
  return (
    Rule(f'{LAYER}{name}weight', 'E D', w, 'D E', float32=float32),
    Rule(f'{LAYER}{name}bias', 'E', b, 'E', float32=float32),
  )


def selection_bias(
  name: str = 'mlp.gate.e_score_correction_bias', theirs: str = 'E'
) -> Rule:
  """The rule of the bias that is added to scores only to choose experts.

  It is float32 because it moves in steps of 0.001, which bfloat16 cannot
  resolve next to values of 1.
  """
  path = 'moe/ffn/router_state/loss_free/selection_bias_E'
  return Rule(LAYER + name, theirs, path, 'E', float32=True)


def _joint(name: str, theirs: str, ours: str, pattern: str) -> Rule:
  return Rule(LAYER + name, theirs, f'mtp/{ours}', pattern)


# Tensors of a module of multi-token prediction besides those of its layer.
# Embedding and head are the model's; releases store a copy in each module.
MTP = (
  _joint('enorm.weight', 'D', 'norm_embed/scale_D', 'D'),
  _joint('hnorm.weight', 'D', 'norm_hidden/scale_D', 'D'),
  _joint('shared_head.norm.weight', 'D', 'norm/scale_D', 'D'),
  _joint('eh_proj.weight', 'D (two C)', 'w_2CD', 'two C D'),
  Rule(LAYER + 'embed_tokens.weight', 'V D', 'embed_VD', 'V D', copy=True),
  Rule(LAYER + 'shared_head.head.weight', 'V D', 'head_DV', 'D V', copy=True),
)
