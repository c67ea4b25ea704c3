"""Rounding to int8 and float8 in numpy, and products of rounded factors."""

import ml_dtypes
import numpy as np

# model.quantization -> types of the factors forward, and of gradients.
TYPES = {'int8': ('int8', 'int8'), 'fp8': ('float8_e4m3fn', 'float8_e5m2')}

# The number that the largest value of a row becomes.
LARGEST = {'int8': 127.0, 'float8_e4m3fn': 448.0, 'float8_e5m2': 57344.0}


def rounded(x_RD, dtype):
  """Rows as rounded numbers, float64, and the scale of each, [R, 1]."""
  x_RD = np.asarray(x_RD, np.float32)
  scale_R1 = np.abs(x_RD).max(axis=1, keepdims=True) / np.float32(
    LARGEST[dtype]
  )
  scale_R1 = np.where(scale_R1 > 0, scale_R1, 1).astype(np.float32)
  q_RD = x_RD / scale_R1
  if dtype == 'int8':
    q_RD = np.round(q_RD)
  else:
    q_RD = q_RD.astype(getattr(ml_dtypes, dtype))
  return q_RD.astype(np.float64), scale_R1.astype(np.float64)


def product(x_RD, w_DF, x_type, w_type):
  """Rows of x times columns of w, both rounded; sums in float64."""
  q_RD, scale_R1 = rounded(x_RD, x_type)
  q_FD, scale_F1 = rounded(np.asarray(w_DF).T, w_type)
  return (q_RD @ q_FD.T) * scale_R1 * scale_F1.T
