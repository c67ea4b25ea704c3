"""ATTENTIONS and KERNELS: implementations of causal dot-product attention.

  attend = choose('auto', backend)
  out_BLHK = attend(q_BLHK, k_BLGK, v_BLGK, segment_BL)
  out_BLHK = attend_cache(q_BLHK, k_BGSK, v_BGSK, mask_BLS)

H query heads share G key heads (G divides H; query head h reads key head
h // (H // G)). Scores are scaled by K ** -0.5, the softmax is in float32. A
token sees itself and earlier tokens of its own segment (int32 ids). Padding is
segment 0, a segment like the others: its rows are finite and never read.

Example, a row of two packed documents and one token of padding; query l (down)
sees key s (across) where there is an x:

  segment   1 1 2 2 0
        1   x . . . .
        1   x x . . .
        2   . . x . .
        2   . . x x .
        0   . . . . x
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from moejax.core import linear, table, varying
from moejax.model.attention import splash, triton

_NEVER = -1e30  # score of a hidden key; finite, so that no row is all infinite
# Largest number of chunks of `chunked`, each compiled by itself. With 8 chunks
# 12% of the scores are computed in vain.
_MAX_CHUNKS = 8
_MIN_CHUNK = 64  # smallest chunk, in tokens


def attend_cache(
  q_BLHK: jax.Array,
  k_BGSK: jax.Array,
  v_BGSV: jax.Array,
  mask_BLS: jax.Array,
  sink_H: jax.Array | None = None,
) -> jax.Array:
  """Attention of queries to a cache of S keys, as far as `mask_BLS` allows.

  A query that sees no key gets the mean of all values, which has no meaning but
  is finite.

  Args:
    q_BLHK: queries.
    k_BGSK: keys, of G heads.
    v_BGSV: values, of any width V.
    mask_BLS: bool, whether query l sees key s.
    sink_H: for each query head, the score of a further key whose value is 0.

  Returns:
    [B, L, H, V] in the type of the queries.
  """
  B, L, H, K = q_BLHK.shape
  G = k_BGSK.shape[1]
  score_BGNLS = jnp.einsum(
    'blgnk,bgsk->bgnls',
    q_BLHK.reshape(B, L, G, H // G, K),
    k_BGSK,
    preferred_element_type=jnp.float32,
  )
  score_BGNLS = jnp.where(
    mask_BLS[:, None, None], score_BGNLS * K**-0.5, _NEVER
  )
  if sink_H is not None:
    sink_GN11 = sink_H.astype(jnp.float32).reshape(G, -1, 1, 1)
    sink_BGNL1 = jnp.broadcast_to(sink_GN11, (*score_BGNLS.shape[:-1], 1))
    score_BGNLS = jnp.concatenate([score_BGNLS, sink_BGNL1], axis=-1)
  prob_BGNLS = jax.nn.softmax(score_BGNLS, axis=-1)[..., : k_BGSK.shape[2]]
  # In the order of the product: XLA for CPU (JAX 0.12) has no kernel for other
  # orders of several rows in bfloat16, and ends the program.
  out_BGNLV = jnp.einsum(
    'bgnls,bgsv->bgnlv',
    prob_BGNLS.astype(v_BGSV.dtype),
    v_BGSV,
    preferred_element_type=jnp.float32,
  )
  out_BLGNV = out_BGNLV.astype(q_BLHK.dtype).transpose(0, 3, 1, 2, 4)
  return out_BLGNV.reshape(B, L, H, -1)


def with_window_and_sinks(
  q_BLHK: jax.Array,
  k_BLGK: jax.Array,
  v_BLGV: jax.Array,
  segment_BL: jax.Array,
  window: jax.Array | None = None,
  sink_H: jax.Array | None = None,
) -> jax.Array:
  """Attention with windows and sinks, which the cores do not have.

  All L x L scores are computed, and then masked.

  Args:
    q_BLHK: queries.
    k_BLGK: keys.
    v_BLGV: values, of any width V.
    segment_BL: int32, number of each token's document.
    window: int32 scalar, number of tokens that a query sees, its own included;
      0 or None for all.
    sink_H: see `attend_cache`.
  """
  mask_BLS = _visible(segment_BL)
  if window is not None:
    place_L = jnp.arange(segment_BL.shape[1])
    mask_BLS &= in_window(place_L[:, None], place_L, window)
  return _attend(q_BLHK, k_BLGK, v_BLGV, mask_BLS, sink_H)


def visible_slots(
  position_BL: jax.Array, slots: int, window: jax.Array | None = None
) -> jax.Array:
  """The slots of a cache that each query sees: those up to its own position.

  Args:
    position_BL: int32, position of each query.
    slots: S, number of slots.
    window: as in `with_window_and_sinks`.

  Returns:
    bool [B, L, S].
  """
  slot_S = jnp.arange(slots)
  mask_BLS = slot_S <= position_BL[..., None]
  return mask_BLS & in_window(position_BL[..., None], slot_S, window)


def in_window(
  query: jax.Array, key: jax.Array, window: jax.Array | None
) -> jax.Array:
  """Whether keys are in the windows of queries, by their positions (int32).

  The positions broadcast.
  """
  if window is None:
    return jnp.ones((), bool)
  return (window == 0) | (query - key < window)


def reference(q_BLHK, k_BLGK, v_BLGK, segment_BL):
  """The reference implementation of the tests: all scores, masked."""
  return _attend(q_BLHK, k_BLGK, v_BLGK, _visible(segment_BL))


def _attend(q_BLHK, k_BLGK, v_BLGV, mask_BLS, sink_H=None):
  """`attend_cache` of keys and values as they are projected."""
  k_BGLK, v_BGLV = (jnp.swapaxes(x, 1, 2) for x in (k_BLGK, v_BLGV))
  return attend_cache(q_BLHK, k_BGLK, v_BGLV, mask_BLS, sink_H)


def xla(q_BLHK, k_BLGK, v_BLGK, segment_BL):
  """`jax.nn.dot_product_attention` with a mask."""
  return jax.nn.dot_product_attention(
    q_BLHK, k_BLGK, v_BLGK, mask=_visible(segment_BL)[:, None]
  )


def chunked(q_BLHK, k_BLGK, v_BLGK, segment_BL):
  """Chunks of queries against their prefix, with its own gradient; for CPU.

  Almost half of the scores are never computed. The exponentials are normalised
  after the product with the values. Keys and values are stored as [K, L], which
  makes every product of the forward and backward pass a fast one. The backward
  pass recomputes the exponentials: keeping them is no faster, and takes L / 2
  numbers for each query.
  """
  B, L, H, K = q_BLHK.shape
  G = k_BLGK.shape[2]
  q_BGNLK = q_BLHK.reshape(B, L, G, H // G, K).transpose(0, 2, 3, 1, 4)
  k_BGKL, v_BGKL = (x.transpose(0, 2, 3, 1) for x in (k_BLGK, v_BLGK))
  out_BGNLK = _chunked(
    *varying.together(q_BGNLK * K**-0.5, k_BGKL, v_BGKL, segment_BL)
  )
  return out_BGNLK.transpose(0, 3, 1, 2, 4).reshape(B, L, H, K)


def _visible(segment_BL):
  """True where query l sees key s: bool [B, L, S]."""
  L = segment_BL.shape[1]
  same_BLL = segment_BL[:, :, None] == segment_BL[:, None, :]
  return same_BLL & jnp.tril(jnp.ones((L, L), bool))


def _chunks(L):
  """(start, end) of every chunk."""
  size = max(_MIN_CHUNK, -(-L // _MAX_CHUNKS))
  return [(start, min(start + size, L)) for start in range(0, L, size)]


def _dot(a, b, a_dim, b_dim):
  """Product over the named dims, for every batch entry and key head."""
  dims = (((a_dim,), (b_dim,)), ((0, 1), (0, 1)))
  return jax.lax.dot_general(a, b, dims, preferred_element_type=jnp.float32)


def _over_queries(a_BGMK, b_BGMS):
  """a^T b [B, G, K, S]: sums over queries, per batch entry and key head."""
  return jax.vmap(jax.vmap(linear.over_rows))(a_BGMK, b_BGMS)


def _rows(x_BGNLK, start, end):
  """A chunk of queries [B, G, M, K]; M has all that share a key head."""
  B, G, _, _, K = x_BGNLK.shape
  return x_BGNLK[:, :, :, start:end].reshape(B, G, -1, K)


def _exponentials(q_BGNLK, k_BGKL, segment_BL, start, end):
  """exp(score - the row's largest) of a chunk of queries and its prefix.

  Float32 [B, G, N, C, S]. XLA for CPU makes one kernel of it, the product with
  the keys included, if the scores are not used elsewhere.
  """
  B, G, N, _, _ = q_BGNLK.shape
  q_BGMK = _rows(q_BGNLK, start, end)
  score_BGMS = _dot(q_BGMK, k_BGKL[..., :end], 3, 2)
  same_BCS = segment_BL[:, start:end, None] == segment_BL[:, None, :end]
  causal_CS = jnp.arange(start, end)[:, None] >= jnp.arange(end)
  # Added, not compared: a comparison would be repeated for every head.
  bias_BCS = jnp.where(same_BCS & causal_CS, 0.0, _NEVER)
  score_BGNCS = score_BGMS.reshape(B, G, N, -1, end) + bias_BCS[:, None, None]
  return jnp.exp(score_BGNCS - jnp.max(score_BGNCS, axis=-1, keepdims=True))


@jax.custom_vjp
def _chunked(q_BGNLK, k_BGKL, v_BGKL, segment_BL):
  return _chunked_fwd(q_BGNLK, k_BGKL, v_BGKL, segment_BL)[0]


def _chunked_fwd(q_BGNLK, k_BGKL, v_BGKL, segment_BL):
  B, G, N, L, K = q_BGNLK.shape
  outs, totals = [], []
  for start, end in _chunks(L):
    exp_BGNCS = _exponentials(q_BGNLK, k_BGKL, segment_BL, start, end)
    total_BGNC1 = jnp.sum(exp_BGNCS, axis=-1, keepdims=True)
    exp_BGMS = exp_BGNCS.reshape(B, G, -1, end).astype(v_BGKL.dtype)
    out_BGMK = _dot(exp_BGMS, v_BGKL[..., :end], 3, 3)
    outs.append(out_BGMK.reshape(B, G, N, -1, K) / total_BGNC1)
    totals.append(total_BGNC1)
  out_BGNLK = jnp.concatenate(outs, axis=3).astype(q_BGNLK.dtype)
  return out_BGNLK, (q_BGNLK, k_BGKL, v_BGKL, segment_BL, out_BGNLK, totals)


def _chunked_bwd(residuals, dout_BGNLK):
  q_BGNLK, k_BGKL, v_BGKL, segment_BL, out_BGNLK, totals = residuals
  B, G, N, L, K = q_BGNLK.shape
  dtype = q_BGNLK.dtype
  # The softmax's own gradient needs, per row, sum over keys of prob * dprob,
  # which is the row's dout . out.
  inner_BGNL1 = jnp.sum(
    dout_BGNLK.astype(jnp.float32) * out_BGNLK, axis=-1, keepdims=True
  )
  dqs, dks, dvs = [], [], []
  for (start, end), total_BGNC1 in zip(_chunks(L), totals, strict=True):
    exp_BGNCS = _exponentials(q_BGNLK, k_BGKL, segment_BL, start, end)
    exp_BGMS = exp_BGNCS.reshape(B, G, -1, end).astype(dtype)
    dout_BGNCK = dout_BGNLK[:, :, :, start:end] / total_BGNC1
    dout_BGMK = dout_BGNCK.reshape(B, G, -1, K).astype(dtype)
    inner_BGNC1 = inner_BGNL1[:, :, :, start:end] / total_BGNC1
    inner_BGM1 = inner_BGNC1.reshape(B, G, -1, 1)
    dprob_BGMS = _dot(dout_BGMK, v_BGKL[..., :end], 3, 2)
    dscore_BGMS = (exp_BGMS * (dprob_BGMS - inner_BGM1)).astype(dtype)
    dq_BGMK = _dot(dscore_BGMS, k_BGKL[..., :end], 3, 3)
    dqs.append(dq_BGMK.reshape(B, G, N, -1, K))
    dks.append(_over_queries(_rows(q_BGNLK, start, end), dscore_BGMS))
    dvs.append(_over_queries(dout_BGMK, exp_BGMS))
  dq_BGNLK = jnp.concatenate(dqs, axis=3).astype(dtype)
  return (
    dq_BGNLK,
    _sum_prefixes(dks).astype(k_BGKL.dtype),
    _sum_prefixes(dvs).astype(v_BGKL.dtype),
    None,
  )


def _sum_prefixes(parts):
  """Sums arrays [..., S] that all start at key 0, each longer than the last."""
  ends = [part.shape[-1] for part in parts]
  starts = [0, *ends]
  return jnp.concatenate(
    [
      functools.reduce(jnp.add, [part[..., start:end] for part in parts[i:]])
      for i, (start, end) in enumerate(zip(starts, ends, strict=False))
    ],
    axis=-1,
  )


_chunked.defvjp(_chunked_fwd, _chunked_bwd)

# By name in a config: function (q_BLHK, k_BLGK, v_BLGK, segment_BL) -> out_BLHK
# for any platform.
ATTENTIONS: dict[str, Callable] = {
  'reference': reference,
  'chunked': chunked,
  'xla': xla,
}

# By name in a config: function (mesh) -> such a function, for one platform.
KERNELS: dict[str, Callable[[Mesh | None], Callable]] = {
  'splash': splash.Splash,
  'triton': triton.Triton,
}


def _on_tpu(mesh: Mesh | None) -> Callable:
  """The kernel if the shapes allow it, else XLA's attention."""
  return splash.Splash(mesh, otherwise=xla)


def _on_gpu(mesh: Mesh | None) -> Callable:
  """The kernels if the shapes allow them, else the fewest scores."""
  return triton.Triton(mesh, otherwise=chunked)


# platform -> function (mesh) -> the attention that `auto` chooses there
_AUTO = {'cpu': lambda _: chunked, 'tpu': _on_tpu, 'gpu': _on_gpu}


def choose(name: str, backend: str, mesh: Mesh | None = None) -> Callable:
  """The attention called `name`; 'auto' chooses by platform.

  Args:
    name: a key of ATTENTIONS or KERNELS, or auto.
    backend: the platform: cpu, tpu, ...
    mesh: the devices; None for one.

  Raises:
    InputError: no such name.
  """
  if name == 'auto':
    return _AUTO.get(backend, lambda _: xla)(mesh)
  if name in KERNELS:
    return KERNELS[name](mesh)
  return table.lookup('attention', ATTENTIONS, name)
