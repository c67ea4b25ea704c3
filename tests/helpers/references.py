"""References in numpy: formulas of the papers, written as loops.

Everything is float64 and takes one vector at a time.
"""

import math

import numpy as np


def softmax(x):
  e = [math.exp(v - max(x)) for v in x]
  return [v / sum(e) for v in e]


def swiglu(w_in_D2F, w_out_FD, x_D):
  """w_out (silu(w_gate x) * (w_up x))."""
  gate_F = x_D @ w_in_D2F[:, 0]
  up_F = x_D @ w_in_D2F[:, 1]
  return (gate_F / (1 + np.exp(-gate_F)) * up_F) @ w_out_FD


def top(scores, k):
  """Places of the k largest, best first; of equals the first."""
  return sorted(range(len(scores)), key=lambda i: (-scores[i], i))[:k]


def deepseek_moe(weights, x_D, k, num_shared, *, valid=True):
  """DeepSeekMoE's feed-forward of one token (arXiv 2401.06066, eq. 9 to 11).

  Returns its output without the residual, the experts chosen, their gates.
  """
  w = float64(weights)
  out_D = np.zeros_like(x_D, np.float64)
  chosen, gates = [], []
  if valid:
    scores = softmax([x_D @ e_D for e_D in w['router']['w_DE'].T])
    for i in top(scores, k):
      y_D = swiglu(
        w['routed']['w_in_ED2F'][i], w['routed']['w_out_EFD'][i], x_D
      )
      out_D = out_D + scores[i] * y_D
      chosen.append(i)
      gates.append(scores[i])
  if num_shared:
    # The shared experts lie side by side in one wide one.
    w_in, w_out = w['shared']['w_in_ED2F'][0], w['shared']['w_out_EFD'][0]
    hidden = w_in.shape[2] // num_shared
    for i in range(num_shared):
      part = slice(i * hidden, (i + 1) * hidden)
      out_D = out_D + swiglu(w_in[:, :, part], w_out[part], x_D)
  return out_D, chosen, gates


def rms_norm(x_D, scale_D, eps):
  return x_D / math.sqrt(np.mean(x_D**2) + eps) * scale_D


def rotate(x_K, position, base):
  """Features i and i + K/2 rotate together by position * base^(-2i/K)."""
  K = len(x_K)
  y_K = np.zeros(K)
  for i in range(K // 2):
    angle = position * base ** (-2 * i / K)
    a, b = x_K[i], x_K[i + K // 2]
    y_K[i] = a * math.cos(angle) - b * math.sin(angle)
    y_K[i + K // 2] = a * math.sin(angle) + b * math.cos(angle)
  return y_K


def rotate_first(rope, position_L, x_LHK):
  """Pairs of the first features rotated, by complex numbers."""
  dim = rope.rotary_dim(x_LHK.shape[-1])
  frequencies = rope.scaling.frequencies(rope.base, dim)
  if rope.interleaved:
    first, second = np.arange(0, dim, 2), np.arange(1, dim, 2)
  else:
    first, second = np.arange(dim // 2), np.arange(dim // 2, dim)
  y_LHK = x_LHK.copy()
  for at, position in enumerate(position_L):
    pair = x_LHK[at][:, first] + 1j * x_LHK[at][:, second]
    pair = pair * rope.scaling.amplitude * np.exp(1j * position * frequencies)
    y_LHK[at][:, first], y_LHK[at][:, second] = pair.real, pair.imag
  return y_LHK


def qk_norm(x_LHK, w, config):
  """Of each head by itself, or of all of them as one long vector."""
  L, H, K = x_LHK.shape
  if config.qk_norm == 'width':
    rows, scale = x_LHK.reshape(L, H * K), w['scale_HK'].reshape(-1)
  else:
    rows, scale = x_LHK.reshape(L * H, K), w['scale_D']
  found = [rms_norm(row, scale, config.norm_eps) for row in rows]
  return np.stack(found).reshape(L, H, K)


def attention(w, x_LD, segment_L, position_L, base):
  """Every query against every key that it may see, head by head."""
  L, H = len(x_LD), w['w_q_DHK'].shape[1]
  G, K = w['w_k_DGK'].shape[1:]
  out_LD = np.zeros_like(x_LD)
  for h in range(H):
    g = h // (H // G)
    rotated = lambda x_LK: [
      rotate(x_K, p, base) for x_K, p in zip(x_LK, position_L, strict=True)
    ]
    q_LK = rotated(x_LD @ w['w_q_DHK'][:, h])
    k_LK = rotated(x_LD @ w['w_k_DGK'][:, g])
    v_LK = x_LD @ w['w_v_DGK'][:, g]
    for i in range(L):
      seen = [j for j in range(i + 1) if segment_L[j] == segment_L[i]]
      probs = softmax([q_LK[i] @ k_LK[j] / math.sqrt(K) for j in seen])
      o_K = sum(p * v_LK[j] for p, j in zip(probs, seen, strict=True))
      out_LD[i] += o_K @ w['w_o_HKD'][h]
  return out_LD


def decoder(config, weights, token_L, segment_L, position_L, decisions=None):
  """Hidden states of one row before the head, layer by layer.

  To a list `decisions`, each layer with experts appends the experts and gates
  of every token.
  """
  w = float64(weights)
  x_LD = w['embed_VD'][token_L]
  for layer in range(config.num_layers):
    dense = config.kinds[layer] == 'dense'
    stack = w[config.kinds[layer]]
    block = _at(stack, config.kinds[:layer].count(config.kinds[layer]))
    norm = lambda x_LD, scale_D: np.stack([
      rms_norm(x_D, scale_D, config.norm_eps) for x_D in x_LD
    ])
    x_LD = x_LD + attention(
      block['attention'],
      norm(x_LD, block['norm_attention']['scale_D']),
      segment_L,
      position_L,
      config.rope.base,
    )
    h_LD = norm(x_LD, block['norm_ffn']['scale_D'])
    if dense:
      ffn = block['ffn']['w']
      y_LD = [
        swiglu(ffn['w_in_ED2F'][0], ffn['w_out_EFD'][0], h_D) for h_D in h_LD
      ]
    else:
      moe = config.moe
      y_LD, *chosen = zip(
        *(
          deepseek_moe(
            block['ffn'], h_D, moe.router.k, moe.num_shared, valid=segment > 0
          )
          for h_D, segment in zip(h_LD, segment_L, strict=True)
        ),
        strict=True,
      )
      if decisions is not None:
        decisions.append(chosen)
    x_LD = x_LD + np.stack(y_LD)
  return np.stack([
    rms_norm(x_D, w['norm']['scale_D'], config.norm_eps) for x_D in x_LD
  ])


def float64(tree):
  if isinstance(tree, dict):
    return {key: float64(value) for key, value in tree.items()}
  return np.asarray(tree, np.float64)


def _at(tree, index):
  if isinstance(tree, dict):
    return {key: _at(value, index) for key, value in tree.items()}
  return tree[index]
