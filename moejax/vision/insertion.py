"""Image features in place of image tokens in the input of a decoder.

An image of N features has N image tokens in its text, next to each other or
not. The decoder embeds all tokens; the embeddings of image tokens are then
replaced by the features of the row, in order:

  tokens      a  #  #  b  #        # is the image token
  features    f0 f1 f2             of one or several images
  embeddings  a  f0 f1 b  f2

Segments, positions and routing see image tokens like all others.
"""

import jax
import jax.numpy as jnp
import numpy as np

from moejax.core import errors


def insert(
  x_BLD: jax.Array, image_BL: jax.Array, feature_BID: jax.Array
) -> jax.Array:
  """Embeddings with features at the places of image tokens.

  Args:
    x_BLD: embeddings of all tokens; those of image tokens are not used.
    image_BL: bool, whether a token is an image token.
    feature_BID: projected features of each row's images, one image after the
      other, padded to I. Of a row with n image tokens the first n are used.

  Returns:
    [B, L, D] in the type of `x_BLD`.
  """
  last = feature_BID.shape[1] - 1
  index_BL = jnp.clip(jnp.cumsum(image_BL, axis=1) - 1, 0, last)
  chosen_BLD = jnp.take_along_axis(feature_BID, index_BL[..., None], axis=1)
  return jnp.where(image_BL[..., None], chosen_BLD.astype(x_BLD.dtype), x_BLD)


def text_tokens(token_BL: jax.Array, image_token: int) -> jax.Array:
  """Ids with 0 in place of image tokens, whose id a vocabulary may lack."""
  return jnp.where(token_BL == image_token, 0, token_BL)


def check_counts(
  token_BL: np.ndarray, image_token: int, num_features_B: np.ndarray
) -> None:
  """Checks that every image token has a feature, and every feature a token.

  Args:
    token_BL: ids, on the host.
    image_token: id of the image token.
    num_features_B: number of features of each row's images together.

  Raises:
    InputError: a row has more or fewer image tokens than features.
  """
  num_tokens_B = np.sum(np.asarray(token_BL) == image_token, axis=1)
  for row, (tokens, features) in enumerate(
    zip(num_tokens_B, num_features_B, strict=True)
  ):
    if tokens != features:
      raise errors.InputError(
        f'row {row} has {tokens} image tokens (id {image_token}), and its '
        f'images have {features} features; each feature needs one token'
      )
