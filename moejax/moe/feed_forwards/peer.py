"""PEER: a great many experts of one neuron, found by product keys."""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp
from flax import nnx
from jax.sharding import Mesh

from moejax.core import errors, fields, shapes
from moejax.moe.config import MoEConfig
from moejax.moe.experts.two_matrix import ACTIVATIONS
from moejax.moe.feed_forward import LayerSizes, PreviousLayer, Record, TokenInfo
from moejax.moe.replay import NOWHERE
from moejax.moe.routes import Routes, RoutesRequest, keep

SCORES = {
  'sigmoid': jax.nn.sigmoid,
  'softmax': lambda score_THK: jax.nn.softmax(score_THK, axis=-1),
}


@dataclasses.dataclass(frozen=True)
class PEERConfig(fields.Checked):
  """The config of a PEER feed-forward.

  Attributes:
    num_keys: n; there are n^2 experts. 1024 in the paper.
    num_heads: H, each with a query and a choice of its own. 8 in the paper.
    k: experts per head. 16 in the paper.
    key_width: width of a query, one half for each of the two keys.
    score: how scores become the weights of the k experts: by softmax over the k
      scores, or by sigmoid of each.
    activation: of the one neuron, relu or gelu.
  """

  keeps_experts: ClassVar[str] = (
    'an expert is a pair of keys, and each key is that of as many experts as '
    'there are others, so no expert can be removed by itself'
  )

  num_keys: int = fields.number(64, at_least=1)
  num_heads: int = fields.number(8, at_least=1)
  k: int = fields.number(16, at_least=1)
  key_width: int = fields.number(128, at_least=2)
  score: str = fields.named(SCORES, 'softmax')
  activation: str = fields.named(ACTIVATIONS, 'gelu')

  def check(self) -> None:
    """Raises InputError for sizes that no layer can have."""
    if self.k > self.num_keys:
      raise errors.InputError(
        f'k={self.k} experts per head, but there are '
        f'num_keys={self.num_keys}; use 1 to {self.num_keys}'
      )
    if self.k == 1 and self.score == 'softmax':
      raise errors.InputError(
        'k=1 with score=softmax gives every expert the weight 1, so '
        'queries and keys would not be trained; set score=sigmoid, or a '
        'larger k'
      )
    if self.key_width % 2:
      raise errors.InputError(
        f'key_width={self.key_width} must be even: half for each key'
      )

  def shrunk(self) -> 'PEERConfig':
    """The same for a model that is shrunk to a laptop's."""
    num_keys = min(self.num_keys, 16)
    return dataclasses.replace(
      self,
      num_keys=num_keys,
      num_heads=min(self.num_heads, 2),
      k=min(self.k, 4, num_keys),
      key_width=min(self.key_width, 16),
    )

  @property
  def num_experts(self) -> int:
    """N, all the experts."""
    return self.num_keys**2

  def used_share(self, row_length: int) -> float:
    """Share of the experts that compute a token, in [0, 1]."""
    del row_length
    return self.experts_per_token / self.num_experts

  @property
  def experts_per_token(self) -> int:
    """Number of experts that compute a token, over all heads."""
    return self.num_heads * self.k

  def make(
    self, sizes: LayerSizes, moe: MoEConfig, mesh: Mesh, key: jax.Array
  ) -> 'PEER':
    """The module of one layer."""
    del moe, mesh
    return PEER(self, sizes.width, sizes.init_std, key)


class PEER(nnx.Module):
  """Parameter-efficient expert retrieval (arXiv 2407.04153, section 2).

  N = n^2 experts e_i(x) = v_i * act(u_i . x). For each head:

    1. query    q = W_q x, its halves against n sub-keys each: two scores
    2. choice   the k experts with the largest scores of all n^2. The score of
                expert (i, j), number i * n + j, is the first half's score of i
                plus the second half's of j. So it suffices to look at the k
                best of each half
    3. output   sum over the k of weight times e_i(x), weights from scores

  and the heads' outputs are added. Heads share experts and sub-keys. Each token
  is computed by itself, so the layer is causal.

  The paper finds that batch normalisation of the queries helps experts to be
  used evenly. It is left out: it would mix the tokens of a batch, later ones
  too, and make the result depend on the batch.
  """

  whole_in_decoding: ClassVar[str] = ''

  def __init__(
    self, config: PEERConfig, width: int, std: float, key: jax.Array
  ):
    config.check()
    self.config = config
    half = config.key_width // 2
    keys = jax.random.split(key, 4)

    def param(key, std, shape, axes):
      return nnx.Param(
        std * jax.random.normal(key, shape), axes=axes, decays=True
      )

    self.w_query_DH2K = param(
      keys[0],
      std,
      (width, config.num_heads, 2, half),
      ('embed', 'unsharded', 'unsharded', 'unsharded'),
    )
    self.keys_2NK = param(
      keys[1], half**-0.5, (2, config.num_keys, half), ('unsharded',) * 3
    )
    table = (config.num_experts, width)
    self.u_ED = param(keys[2], std, table, ('expert', 'embed'))
    self.v_ED = param(keys[3], std, table, ('expert', 'embed'))

  def __call__(
    self,
    x_BLD: jax.Array,
    tokens: TokenInfo,
    previous: PreviousLayer | None,
    key: jax.Array | None,
    layer: jax.Array | int = 0,
  ) -> tuple[jax.Array, PreviousLayer | None, Record]:
    """See `feed_forward.FeedForward`."""
    del key, layer
    routes = None
    if tokens.routes is not None:
      routes = self.routes(x_BLD, tokens.valid_BL, tokens.routes)
    out_BLD = self.output(x_BLD, tokens.valid_BL)
    return out_BLD, previous, Record(routes=routes)

  def output(self, x_BLD: jax.Array, valid_BL: jax.Array) -> jax.Array:
    """out_BLD; every token by itself, zeros for padding."""
    shapes.dims('B L D', x_BLD, D=self.u_ED.shape[1])
    x_TD = x_BLD.reshape(-1, x_BLD.shape[-1])
    score_THK, expert_THK = self.choose(x_TD)
    weight_THK = SCORES[self.config.score](score_THK)
    act = ACTIVATIONS[self.config.activation]
    u_ED, v_ED = self.u_ED[...], self.v_ED[...]

    # One head at a time, whose rows are gathered once more in the backward
    # pass: the rows of all heads at once are 2 T H K D numbers.
    @jax.checkpoint
    def add_head(out_TD, one_head):
      weight_TK, expert_TK = one_head
      u_TKD, v_TKD = (
        table_ED[expert_TK].astype(x_TD.dtype) for table_ED in (u_ED, v_ED)
      )
      h_TK = act(jnp.einsum('TD,TKD->TK', x_TD, u_TKD))
      h_TK = h_TK * weight_TK.astype(h_TK.dtype)
      out_TD += jnp.einsum(
        'TK,TKD->TD', h_TK, v_TKD, preferred_element_type=jnp.float32
      )
      return out_TD, None

    heads = (weight_THK.swapaxes(0, 1), expert_THK.swapaxes(0, 1))
    out_TD, _ = jax.lax.scan(
      add_head, jnp.zeros(x_TD.shape, jnp.float32), heads
    )
    out_BLD = out_TD.astype(x_BLD.dtype).reshape(x_BLD.shape)
    return jnp.where(valid_BL[..., None], out_BLD, 0)

  def choose(self, x_TD: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Scores and numbers of each head's experts, [T, H, K], best first."""
    score_TH2N = self.scores(x_TD)
    return product_top_k(
      score_TH2N[:, :, 0], score_TH2N[:, :, 1], self.config.k
    )

  def scores(self, x_TD: jax.Array) -> jax.Array:
    """Scores of the sub-keys, [T, H, 2, n]: step 1."""
    highest = jax.lax.Precision.HIGHEST
    query_TH2K = jnp.einsum(
      'TD,DHGK->THGK',
      x_TD.astype(jnp.float32),
      self.w_query_DH2K[...],
      precision=highest,
    )
    return jnp.einsum(
      'THGK,GNK->THGN', query_TH2K, self.keys_2NK[...], precision=highest
    )

  def routes(
    self, x_BLD: jax.Array, valid_BL: jax.Array, request: RoutesRequest
  ) -> Routes:
    """The experts of all heads, H * k for each token, without gradient.

    An expert that several heads choose is there several times. The entropy is
    the mean over heads of that of the softmax over all n^2 scores.

    Raises:
      InputError: the request asks for logits.
    """
    if request.logits:
      raise errors.InputError(
        f'feed_forward=peer does not compute the logits of all '
        f'{self.config.num_experts} experts; ask for routes without logits'
      )
    x_TD = jax.lax.stop_gradient(x_BLD).reshape(-1, x_BLD.shape[-1])
    score_THK, expert_THK = self.choose(x_TD)
    weight_THK = SCORES[self.config.score](score_THK)
    by_rank = lambda x_THK: x_THK.reshape(*valid_BL.shape, -1)
    weight_BLK = by_rank(weight_THK)
    order_BLK = jnp.argsort(-weight_BLK, axis=-1, stable=True)
    valid_BL1 = valid_BL[..., None]

    def in_order(x_BLK: jax.Array, empty: int) -> jax.Array:
      x_BLK = jnp.take_along_axis(x_BLK, order_BLK, axis=-1)
      return jnp.where(valid_BL1, x_BLK, jnp.asarray(empty, x_BLK.dtype))

    # The scores are sums of two, so the entropies of both softmaxes add up.
    log_TH2N = jax.nn.log_softmax(self.scores(x_TD), axis=-1)
    entropy_TH = -jnp.sum(jnp.exp(log_TH2N) * log_TH2N, axis=(2, 3))
    entropy_BL = entropy_TH.mean(axis=1).reshape(valid_BL.shape)
    routes = Routes(
      in_order(by_rank(expert_THK), NOWHERE),
      in_order(weight_BLK, 0),
      jnp.zeros(weight_BLK.shape, bool),
      jnp.where(valid_BL, entropy_BL, 0.0),
    )
    return keep(jax.lax.stop_gradient(routes), request.k)


def product_top_k(
  first: jax.Array, second: jax.Array, k: int
) -> tuple[jax.Array, jax.Array]:
  """The k largest sums first[i] + second[j] over the last dimension.

  Example, k=2: first [1, .2, -.5], second [.3, .9, 0]
    -> sums [1.9, 1.3], numbers [0 * 3 + 1, 0 * 3 + 0] = [1, 0]

  Args:
    first: [..., n].
    second: [..., n].
    k: at most n.

  Returns:
    The sums, [..., k], largest first, and their numbers i * n + j, [..., k].
  """
  n = first.shape[-1]
  first_K, i_K = jax.lax.top_k(first, k)
  second_K, j_K = jax.lax.top_k(second, k)
  # A sum with k larger ones in its row or column is not among the k largest.
  all_sums = first_K[..., :, None] + second_K[..., None, :]
  numbers = i_K[..., :, None] * n + j_K[..., None, :]
  flat = (*first.shape[:-1], k * k)
  best_K, place_K = jax.lax.top_k(all_sums.reshape(flat), k)
  return best_K, jnp.take_along_axis(numbers.reshape(flat), place_K, axis=-1)
