"""Experts of every kind drawn at random, and their function, in NumPy."""

import numpy as np

# By kind: the shape of each array behind the experts' axis; D = 3, F = 6.
SHAPES = {
  'swiglu': {'w_in_ED2F': (3, 2, 6), 'w_out_EFD': (6, 3)},
  'two_matrix': {'w_in_EDF': (3, 6), 'w_out_EFD': (6, 3)},
  'two_matrix with biases': {
    'w_in_EDF': (3, 6),
    'b_in_EF': (6,),
    'w_out_EFD': (6, 3),
    'b_out_ED': (3,),
  },
  'clamped_swiglu': {
    'w_in_ED2F': (3, 2, 6),
    'b_in_E2F': (2, 6),
    'w_out_EFD': (6, 3),
    'b_out_ED': (3,),
  },
  'autonomous_swiglu': {
    'w_down_EDR': (3, 2),
    'w_up_ERF': (2, 6),
    'w_p_EDF': (3, 6),
    'w_out_EFD': (6, 3),
  },
}


def random(kind, experts=4, seed=0, dtype=np.float64):
  rng = np.random.default_rng(seed)
  return {
    name: rng.normal(size=(experts, *shape)).astype(dtype)
    for name, shape in SHAPES[kind].items()
  }


def outputs(kind, weights, x_TD):
  """y_ETD: all tokens through every expert, one unit after the other."""
  num, hidden, _ = weights['w_out_EFD'].shape
  y_ETD = np.zeros((num, *x_TD.shape))
  for e in range(num):
    w = {name: array[e] for name, array in weights.items()}
    for f in range(hidden):
      h_T = _unit(kind, w, x_TD, f)
      y_ETD[e] += h_T[:, None] * w['w_out_EFD'][f]
    y_ETD[e] += w.get('b_out_ED', 0)
  return y_ETD


def _unit(kind, w, x_TD, f):
  silu = lambda x, alpha=1.0: x / (1 + np.exp(-alpha * x))
  if kind.startswith('two_matrix'):
    bias = w['b_in_EF'][f] if 'b_in_EF' in w else 0
    return np.maximum(x_TD @ w['w_in_EDF'][:, f] + bias, 0)
  if kind == 'autonomous_swiglu':
    gate_T = x_TD @ w['w_down_EDR'] @ w['w_up_ERF'][:, f]
    return silu(gate_T) * (x_TD @ w['w_p_EDF'][:, f])
  gate_T, up_T = (x_TD @ w['w_in_ED2F'][:, half, f] for half in (0, 1))
  if kind == 'swiglu':
    return silu(gate_T) * up_T
  gate_T = np.minimum(gate_T + w['b_in_E2F'][0, f], 7)
  up_T = np.clip(up_T + w['b_in_E2F'][1, f], -7, 7)
  return silu(gate_T, 1.702) * (up_T + 1)
