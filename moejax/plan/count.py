"""Counts parameters (total and active) and FLOPs of a model by its config.

Everything is computed from the shapes of the weights; no array is allocated.
"""

import dataclasses
import re

import jax

from moejax.core import trees
from moejax.model import build
from moejax.model.config import ModelConfig
from moejax.parallel import mesh as meshes

# The parts of a model, each with a pattern of the paths of its weights. Every
# weight belongs to exactly one part.
PARTS = {
  'embedding': r'embed_VD',
  'attention': r'(dense|moe)/attention/.*',
  'dense feed-forward': r'dense/ffn/.*',
  'routed experts': r'moe/ffn/((routed|low_rank)/.*|u_ED|v_ED)',
  # `latent` projects to and from the width of the routed experts; every token
  # uses it.
  'shared experts': r'moe/ffn/(shared|latent)/.*',
  # With their state, such as selection biases.
  'routers': r'moe/ffn/(router|extra_scorers|router_state|zero)/.*'
  r'|moe/ffn/(residual|phi_DEP|scale|w_query_DH2K|keys_2NK)',
  'norms': r'norm/.*|(dense|moe)/norm_\w+/.*',
  # Without the layers of its modules, which are in the stacks above.
  'multi-token prediction': r'mtp/.*',
  'head': r'head_DV',
  'vision encoder': r'vision/encoder/.*',
  'vision projector': r'vision/projector/.*',
}
FEED_FORWARD = ('dense feed-forward', 'routed experts', 'shared experts')
SMALL = ('routers', 'norms')

# float32: the parameter, and AdamW's two moments.
BYTES_PER_PARAMETER = 3 * 4
BYTES_FROZEN = 4  # of a parameter that is not trained


@dataclasses.dataclass(frozen=True)
class Count:
  """Parameters of a model by part.

  Attributes:
    config: config of the model.
    total_of: parameters by part, in the order of PARTS.
    active_of: parameters that one token uses, by part. The embedding counts in
      full.
  """

  config: ModelConfig
  total_of: dict[str, int]
  active_of: dict[str, int]

  @property
  def total(self) -> int:
    """All parameters."""
    return sum(self.total_of.values())

  @property
  def active(self) -> int:
    """Parameters that one token uses."""
    return sum(self.active_of.values())

  @property
  def without_small(self) -> tuple[int, int]:
    """Total and active without routers and norms.

    DeepSeekMoE's figures of its 2B models (arXiv 2401.06066, Tables 1 and 2)
    are these sums; routers and norms are below their last digit.
    """
    small = sum(self.total_of[part] for part in SMALL)
    return self.total - small, self.active - small

  @property
  def training_bytes(self) -> int:
    """Bytes of float32 parameters and AdamW's two moments."""
    return self.total * BYTES_PER_PARAMETER

  def flops(self, length: int) -> float:
    """FLOPs of training on one sequence of T = `length` tokens.

      3 * [ 2 * T * (N_attention + N_active_feed_forward + V * D)
            + 2 * T^2 * H * (K + V) * layers ]       query and value widths

    This rule gives the FLOPs that DeepSeekMoE prints (arXiv 2401.06066, Tables
    1 to 3): backward costs twice forward, attention is counted in full though
    half of it is masked, the head counts once, and routers, norms and the
    embedding's lookup do not count. Recomputation does not count either. The
    widths of experts are those of the config. For the 16B model the paper
    rounds its widths up but counts the unrounded ones; this count is 2% more.
    """
    c = self.config
    matrices = self.active_of['attention']
    # Each module of multi-token prediction uses the head once more, and has a
    # projection from 2 D to D.
    matrices += (1 + c.mtp_layers) * c.vocab_size * c.width
    matrices += c.mtp_layers * 2 * c.width**2
    matrices += sum(self.active_of[part] for part in FEED_FORWARD)
    widths = c.num_heads * c.heads.widths(c)
    scores = 2 * length**2 * widths * (c.num_layers + c.mtp_layers)
    return 3.0 * (2 * length * matrices + scores)

  def rows(self) -> list[tuple[str, int, int]]:
    """(part, total, active) for the parts that have parameters."""
    return [
      (part, total, self.active_of[part])
      for part, total in self.total_of.items()
      if total
    ]


def count(config: ModelConfig) -> Count:
  """Counts by part.

  Raises:
    InputError: sizes that do not fit together.
    ValueError: a weight belongs to no line of PARTS, or to two.
  """
  mesh = meshes.make(meshes.MeshConfig(data=1), jax.devices()[:1])
  total_of = dict.fromkeys(PARTS, 0)
  for path, leaf in trees.leaves(build.build(config, mesh).shapes).items():
    total_of[_part(path)] += leaf.size
  active_of = dict(total_of)
  if config.num_sparse:
    sparse = config.moe if config.is_routed else config.feed_forward
    # Every feed-forward with experts has `used_share`.
    used = sparse.used_share(config.max_length)  # type: ignore[union-attr] # see above
    active_of['routed experts'] = round(total_of['routed experts'] * used)
  return Count(config, total_of, active_of)


def flops_per_token(config: ModelConfig, length: int) -> float:
  """FLOPs of training per token of sequences of `length`; see `Count.flops`."""
  return count(config).flops(length) / length


def _part(path: str) -> str:
  parts = [name for name, rule in PARTS.items() if re.fullmatch(rule, path)]
  if len(parts) != 1:
    raise ValueError(f'weight {path} is of the parts {parts}; mend count.PARTS')
  return parts[0]
