"""The config of a vision transformer."""

import dataclasses
from collections.abc import Iterable

from moejax.core import errors, fields, table
from moejax.vision.activations import ACTIVATIONS
from moejax.vision.feed_forward import FEED_FORWARDS, Dense, Sizes
from moejax.vision.pooling import POOLINGS

DTYPES = ('float32', 'bfloat16')


@dataclasses.dataclass(frozen=True)
class VisionConfig(fields.Checked):
  """A vision transformer (arXiv 2010.11929); the default is SigLIP's B/16.

  CLIP (arXiv 2103.00020) has `class_token`, `norm_first` and `pooling=class`
  but not `patch_bias`; SigLIP (arXiv 2303.15343) the opposite, and
  `pooling=attention`.

  Attributes:
    image_size: rows and columns of the images that the position embeddings are
      for, in pixels. Other images get interpolated ones.
    patch_size: rows and columns of a patch, in pixels. Rows and columns of an
      image that fill no patch are not seen.
    width: D.
    num_layers: number of layers.
    num_heads: H, which divides D.
    hidden_width: F of the dense feed-forwards.
    activation: of the dense feed-forwards.
    feed_forward: kind of the layers' feed-forwards.
    norm_eps: constant added to the variance in LayerNorm.
    patch_bias: whether the embedding of patches has a bias.
    class_token: whether a learned token is in front of the patches.
    norm_first: whether the embeddings are normalised before the first layer.
    pooling: what makes one vector of an image, and which tokens the last norm
      is applied to.
    init_std: standard deviation of every matrix at the start.
    dtype: type of activations and matmuls; parameters stay float32.
  """

  image_size: int = fields.number(224, at_least=1, at_most=2**15)
  patch_size: int = fields.number(16, at_least=1, at_most=2**15)
  width: int = fields.number(768, at_least=1)
  num_layers: int = fields.number(12, at_least=1, at_most=10**4)
  num_heads: int = fields.number(12, at_least=1)
  hidden_width: int = fields.number(3072, at_least=1)
  activation: str = fields.named(ACTIVATIONS, 'gelu_tanh')
  feed_forward: Dense = fields.choice(FEED_FORWARDS, Dense())
  norm_eps: float = fields.number(1e-6, above=0, at_most=1)
  patch_bias: bool = True
  class_token: bool = False
  norm_first: bool = False
  pooling: str = fields.named(POOLINGS, 'attention')
  init_std: float = fields.number(0.02, above=0, at_most=10)
  dtype: str = fields.named(DTYPES, 'float32')

  @property
  def grid(self) -> int:
    """Number of patches along each side of an image of `image_size`."""
    return self.image_size // self.patch_size

  @property
  def head_dim(self) -> int:
    """K, the width of a head."""
    return self.width // self.num_heads

  @property
  def sizes(self) -> Sizes:
    """The dense feed-forward of a layer."""
    width = self.width
    hidden, std = self.hidden_width, self.init_std
    return Sizes(width, hidden, width, self.activation, std)

  def check_layers(self, layers: Iterable[int]) -> None:
    """Raises InputError for a layer that `VisionEncoder.features` lacks."""
    last = self.num_layers
    for layer in layers:
      if not -last - 1 <= layer <= last:
        raise errors.InputError(
          f'layer {layer} of an encoder of {last} layers: give {-last - 1} to '
          f'{last}'
        )

  def check(self) -> None:
    """Raises InputError if values do not fit together."""
    table.lookup('activation', ACTIVATIONS, self.activation)
    table.lookup('dtype', dict.fromkeys(DTYPES), self.dtype)
    pooling = table.lookup('pooling', POOLINGS, self.pooling)
    if self.width % self.num_heads:
      raise errors.InputError(
        f'num_heads={self.num_heads} must divide width={self.width}'
      )
    try:
      self.feed_forward.check(self.sizes)
    except errors.InputError as e:
      raise errors.InputError(f'feed_forward.{e}') from None
    if self.grid < 1:
      raise errors.InputError(
        f'patch_size={self.patch_size} is larger than '
        f'image_size={self.image_size}: an image would have no patch'
      )
    if pooling.needs_class_token and not self.class_token:
      raise errors.InputError(f'pooling={self.pooling} needs class_token=True')
