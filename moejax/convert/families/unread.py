"""Checkpoints that moejax cannot read, and what moejax would need for them."""

import re

_MAMBA = 'layers of Mamba beside those of attention'
_DELTA = 'layers of gated delta rules beside those of attention'
_INDEXED = 'attention to the tokens that an indexer has chosen'

# By model_type: the components of the model that moejax does not have.
LACKING = {
  'afmoe': 'a gate on the output of attention, norms before and behind each '
  'part, and layers without positions',
  'cohere2_moe': 'attention and feed-forward side by side in one layer',
  'dbrx': 'LayerNorm, and queries, keys and values that are clipped',
  'deepseek_v32': _INDEXED,
  'deepseek_v4': 'compressed attention, and several residual streams',
  'exaone_moe': 'layers without positions',
  'glm_moe_dsa': _INDEXED,
  'granitemoehybrid': _MAMBA,
  'jamba': _MAMBA,
  'jetmoe': 'attention whose heads are experts',
  'kimi_linear': _DELTA,
  'lfm2_moe': 'layers of short convolutions beside those of attention',
  'llama4': 'attention in chunks, and layers without positions',
  'llama4_text': 'attention in chunks, and layers without positions',
  'longcat_flash': 'layers of two attentions and two dense feed-forwards '
  'around the experts',
  'mellum': 'rotary positions that differ from layer to layer',
  'mimo_v2_flash': 'rotary positions and sinks that differ from layer to layer',
  'minimax': 'layers of linear attention beside those of softmax',
  'nemotron_h': _MAMBA,
  'olmo': 'LayerNorm',
  'olmo3': 'rotary positions that differ from layer to layer',
  'phimoe': 'LayerNorm with biases, a head with biases, and other factors of '
  'cos and sin for long texts than for short ones',
  'qwen3_5_moe': _DELTA,
  'qwen3_5_moe_text': _DELTA,
  'qwen3_next': _DELTA,
}

# By model_type: the command that reads models which are no language models.
COMMANDS = {
  'clip_vision_model': 'moejax encoder',
  'llava': 'moejax llava',
  'siglip_vision_model': 'moejax encoder',
}


def slip(name: str, known: list[str]) -> str | None:
  """The known name of which `name` is a misspelling; None if there is none.

  A misspelling differs in capitals and separators only, or else in one letter,
  which is superfluous, missing, wrong, or swapped with the next. Names that
  differ in a digit, or in a letter of a name shorter than 5, are different
  models.

  Example:
    Qwen3-MoE -> qwen3_moe    olmoo -> olmoe    afmoe, qwen4, olmo -> None
  """
  by_letters = {re.sub(r'[^a-z0-9]', '', k.lower()): k for k in known}
  letters = re.sub(r'[^a-z0-9]', '', name.lower())
  if letters in by_letters:
    return by_letters[letters]
  for other, known_name in by_letters.items():
    if min(len(letters), len(other)) >= 5 and _one_edit(letters, other):
      return known_name
  return None


def _one_edit(a: str, b: str) -> bool:
  """Whether `a` and `b` differ by one letter, or by two swapped neighbours."""
  if len(a) > len(b):
    a, b = b, a
  at = next((i for i, (x, y) in enumerate(zip(a, b)) if x != y), len(a))  # noqa: B905 (of two lengths)
  rest_a, rest_b = a[at:], b[at:]
  if any(x.isdigit() for x in (*rest_a[:1], *rest_b[:1])):
    return False
  if len(a) < len(b):
    return rest_a == rest_b[1:]
  swapped = rest_b[1:2] + rest_b[:1] + rest_b[2:]
  return rest_a[1:] == rest_b[1:] or rest_a == swapped
