"""Experts of a vision model as slow NumPy, and dense weights as experts."""

import math

import numpy as np

from moejax.core import trees


def gelu_tanh(x):
  return 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


def gelu(x):
  return 0.5 * x * (1 + np.vectorize(math.erf)(x / math.sqrt(2)))


def quick_gelu(x):
  return x / (1 + np.exp(-1.702 * x))


def softmax(x):
  x = np.exp(x - np.max(x))
  return x / x.sum()


def mlp(w, expert, x_D, activation):
  """One expert for one token: two matrices with biases."""
  h_F = activation(x_D @ w['w_in_EDF'][expert] + w['b_in_EF'][expert])
  return h_F @ w['w_out_EFD'][expert] + w['b_out_ED'][expert]


def smoe(w, x_D, k, activation):
  """LibMoE's SMoE for one token: top k of a softmax, which then sum to 1."""
  prob_E = softmax(x_D @ w['router']['w_DE'])
  chosen = np.argsort(-prob_E, kind='stable')[:k]
  gate = prob_E[chosen] / prob_E[chosen].sum()
  return sum(
    g * mlp(w['routed'], e, x_D, activation)
    for g, e in zip(gate, chosen, strict=True)
  )


# The dense feed-forward's weights by the experts' names.
COPIED = {
  'w_in_EDF': 'w_in_DF',
  'b_in_EF': 'b_in_F',
  'w_out_EFD': 'w_out_FD',
  'b_out_ED': 'b_out_D',
}


def copies(dense, drawn, layers):
  """Weights of which every expert is the dense feed-forward.

  Args:
    dense: the weights of a model without experts.
    drawn: weights of one with experts; their routers stay.
    layers: number of axes in front of the experts'.
  """
  old = trees.leaves(dense)

  def one(path, w):
    name = path.rpartition('/')[2]
    if name not in COPIED:
      return old.get(path, w)
    below = path.rpartition('/')[0].removesuffix('/routed')
    below = below.removesuffix('/shared')
    x = np.asarray(old[f'{below}/{COPIED[name]}'])
    return np.broadcast_to(np.expand_dims(x, layers), w.shape)

  return trees.map_paths(one, drawn)
