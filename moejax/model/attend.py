"""The attention core: causal, each segment for itself.

  attend = choose('auto', backend)
  out_BLHK = attend(q_BLHK, k_BLGK, v_BLGK, segment_BL)
  out_BLHK = attend_cache(q_BLHK, k_BSGK, v_BSGK, mask_BLS)

H query heads share G key heads (G divides H; query head h reads key head
h // (H // G)). Scores are scaled by K ** -0.5, the softmax is in float32. A token
sees itself and earlier tokens of its own segment (int32 ids). Padding is
segment 0, a segment like the others: its rows are finite and nobody reads them.
"""

import jax
import jax.numpy as jnp

from moejax.core import table

_NEVER = -1e30  # finite: a row of nothing but -inf would be NaN


def reference(q_BLHK, k_BLGK, v_BLGK, segment_BL):
  """Slow and obvious."""
  L = q_BLHK.shape[1]
  causal_LL = jnp.tril(jnp.ones((L, L), bool))
  mask_BLL = (segment_BL[:, :, None] == segment_BL[:, None, :]) & causal_LL
  return attend_cache(q_BLHK, k_BLGK, v_BLGK, mask_BLL)


def attend_cache(q_BLHK, k_BSGK, v_BSGK, mask_BLS):
  """Queries against a cache of S keys; `mask_BLS` says who sees what."""
  B, L, H, K = q_BLHK.shape
  G = k_BSGK.shape[2]
  q_BLGNK = q_BLHK.reshape(B, L, G, H // G, K)
  score_BGNLS = jnp.einsum(
    'blgnk,bsgk->bgnls', q_BLGNK, k_BSGK, preferred_element_type=jnp.float32
  )
  score_BGNLS = jnp.where(
    mask_BLS[:, None, None], score_BGNLS * K**-0.5, _NEVER
  )
  prob_BGNLS = jax.nn.softmax(score_BGNLS, axis=-1).astype(v_BSGK.dtype)
  out_BLGNK = jnp.einsum(
    'bgnls,bsgk->blgnk',
    prob_BGNLS,
    v_BSGK,
    preferred_element_type=jnp.float32,
  )
  return out_BLGNK.reshape(B, L, H, K).astype(q_BLHK.dtype)


def xla(q_BLHK, k_BLGK, v_BLGK, segment_BL):
  """`jax.nn.dot_product_attention` with a mask."""
  L = q_BLHK.shape[1]
  causal_LL = jnp.tril(jnp.ones((L, L), bool))
  mask_BLL = (segment_BL[:, :, None] == segment_BL[:, None, :]) & causal_LL
  return jax.nn.dot_product_attention(
    q_BLHK, k_BLGK, v_BLGK, mask=mask_BLL[:, None]
  )


def chunked(q_BLHK, k_BLGK, v_BLGK, segment_BL):
  """Chunks of queries against their prefix; normalised after the product."""
  B, L, H, K = q_BLHK.shape
  G = k_BLGK.shape[2]
  N = H // G
  q_BGNLK = q_BLHK.reshape(B, L, G, N, K).transpose(0, 2, 3, 1, 4) * K**-0.5
  k_BGLK, v_BGLK = (x.transpose(0, 2, 1, 3) for x in (k_BLGK, v_BLGK))
  size = max(64, -(-L // 16))
  outs = []
  for start in range(0, L, size):
    end = min(start + size, L)
    C = end - start
    q_BGMK = q_BGNLK[:, :, :, start:end].reshape(B, G, N * C, K)
    score_BGMS = jnp.einsum(
      'bgmk,bgsk->bgms',
      q_BGMK,
      k_BGLK[:, :, :end],
      preferred_element_type=jnp.float32,
    )
    causal_CS = jnp.arange(start, end)[:, None] >= jnp.arange(end)
    mask_BCS = (
      segment_BL[:, start:end, None] == segment_BL[:, None, :end]
    ) & causal_CS
    score_BGNCS = score_BGMS.reshape(B, G, N, C, end)
    score_BGNCS = jnp.where(mask_BCS[:, None, None], score_BGNCS, _NEVER)
    top = jax.lax.stop_gradient(score_BGNCS.max(axis=-1, keepdims=True))
    exp_BGNCS = jnp.exp(score_BGNCS - top)
    total = exp_BGNCS.sum(axis=-1, keepdims=True)
    out_BGMK = jnp.einsum(
      'bgms,bgsk->bgmk',
      exp_BGNCS.reshape(B, G, N * C, end).astype(v_BGLK.dtype),
      v_BGLK[:, :, :end],
      preferred_element_type=jnp.float32,
    )
    outs.append(out_BGMK.reshape(B, G, N, C, K) / total)
  out_BGNLK = jnp.concatenate(outs, axis=3).astype(q_BLHK.dtype)
  return out_BGNLK.transpose(0, 3, 1, 2, 4).reshape(B, L, H, K)


ATTENTIONS = {'reference': reference, 'chunked': chunked, 'xla': xla}

_AUTO = {'cpu': 'chunked', 'tpu': 'xla', 'gpu': 'xla'}


def choose(name: str, backend: str):
  """The function called `name`; 'auto' goes by `jax.default_backend()`."""
  if name == 'auto':
    name = _AUTO.get(backend, 'xla')
  return table.lookup('attention', ATTENTIONS, name)
