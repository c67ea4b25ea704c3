"""The model of a LLaVA: images and text to logits.

model = llava_model.model(plan, mesh)
weights = llava_model.weights(plan, model)
feature_NPD = model.features(weights, image_NHWC)
logits_BLV = model.logits(weights, token_BL, feature_BID)
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from moejax.convert import llava, load, rules
from moejax.convert.folder import Folder
from moejax.model import build
from moejax.model.build import Model
from moejax.vision import build as vision_build
from moejax.vision import insertion
from moejax.vision.config import VisionConfig
from moejax.vision.encoder import VisionEncoder

Weights = dict[str, Any]
ENCODER, PROJECTOR, DECODER = 'encoder', 'projector', 'decoder'


@dataclasses.dataclass(frozen=True)
class _Part:
  """Tensors of a folder that are read, as `load.Readable`."""

  folder: Folder
  tensors: list[rules.Tensor]


@dataclasses.dataclass(frozen=True, eq=False)
class Llava:
  """The structure of a LLaVA on a mesh, without weights.

  Weights are {'encoder': ..., 'projector': ..., 'decoder': ...}.

  Attributes:
    vision: config of the encoder.
    encoder: structure of the encoder.
    projector: structure of the projector.
    decoder: structure of the decoder.
    layers: as of `LlavaPlan`.
    left_out: as of `LlavaPlan`.
    image_token: as of `LlavaPlan`.
    num_features: as of `LlavaPlan`.
  """

  vision: VisionConfig
  encoder: vision_build.Structure[VisionEncoder]
  projector: vision_build.Structure[Any]
  decoder: Model
  layers: tuple[int, ...]
  left_out: int
  image_token: int
  num_features: int

  text_id = 0  # of image tokens, whose id a vocabulary may lack

  @property
  def feature_width(self) -> int:
    """Width of the projected features."""
    return self.decoder.config.width

  @property
  def image_shape(self) -> tuple[int, int]:
    """Rows and columns of the images that the encoder is for."""
    return (self.vision.image_size,) * 2

  def of_decoder(self, weights: Weights) -> Weights:
    """The weights of the decoder."""
    return weights[DECODER]

  def features(self, weights: Weights, image_NHWC: jax.Array) -> jax.Array:
    """Projected features [N, P, D] of images, prepared as in training."""
    encoder = self.encoder.bind(weights[ENCODER])
    x_NPF = encoder.features(image_NHWC, self.layers, class_token=True)
    return self.projector.bind(weights[PROJECTOR])(x_NPF[:, self.left_out :])

  def embeddings(
    self, weights: Weights, token_BL: jax.Array, feature_BID: jax.Array
  ) -> jax.Array:
    """x_BLD: embeddings of tokens, and features in place of image tokens.

    Args:
      weights: of all parts.
      token_BL: int32 ids; each image has as many image tokens as features.
      feature_BID: features of each row's images, one image after the other,
        padded to I; I is 1 or more.
    """
    decoder = self.decoder.bind(weights[DECODER])
    text_BL = insertion.text_tokens(token_BL, self.image_token)
    # A decoder that scales its embeddings scales features as well.
    feature_BID = feature_BID * self.decoder.config.scales.embedding
    return insertion.insert(
      decoder.embed(text_BL), token_BL == self.image_token, feature_BID
    )

  def logits(
    self, weights: Weights, token_BL: jax.Array, feature_BID: jax.Array
  ) -> jax.Array:
    """float32 logits_BLV of rows without padding; arguments as above."""
    decoder = self.decoder.bind(weights[DECODER])
    position_L = jnp.arange(token_BL.shape[1])
    position_BL = jnp.broadcast_to(position_L, token_BL.shape)
    text_BL = insertion.text_tokens(token_BL, self.image_token)
    tokens = decoder.token_context(
      text_BL, jnp.ones_like(token_BL), position_BL
    )
    x_BLD = self.embeddings(weights, token_BL, feature_BID)
    return decoder.logits(decoder.of_embeddings(x_BLD, tokens).x_BLD)


def model(plan: llava.LlavaPlan, mesh: jax.sharding.Mesh) -> Llava:
  """The structure of a plan's model."""
  vision, config = plan.encoder.config, plan.decoder.config
  return Llava(
    vision,
    vision_build.encoder(vision, mesh),
    llava.projector(plan.activation, plan.widths, mesh),
    build.build(config, mesh),
    plan.layers,
    plan.left_out,
    plan.image_token,
    plan.num_features,
  )


def weights(
  plan: llava.LlavaPlan,
  model: Llava,
  progress: Callable[[int], None] = lambda _: None,
) -> Weights:
  """Reads the weights of all parts onto the model's mesh.

  Args:
    plan: plan of the checkpoint.
    model: of `model`.
    progress: called with the stored bytes of each tensor that was read.

  Raises:
    InputError: a tensor has a number that is not finite.
  """
  projector = _Part(plan.folder, plan.projector)
  return {
    ENCODER: load.weights(plan.encoder, model.encoder, progress),
    PROJECTOR: load.weights(projector, model.projector, progress),
    DECODER: load.weights(plan.decoder, model.decoder, progress),
  }
