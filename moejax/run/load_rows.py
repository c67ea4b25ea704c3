"""The load of each expert in each layer as characters, one row for a layer."""

import numpy as np

RAMP, NONE, MANY = '▁▂▃▄▅▆▇█', '·', '◆'
ASCII_RAMP, ASCII_NONE, ASCII_MANY = '.:-=+*#@', ' ', '!'
MANY_FROM = 4  # load over the mean from which a cell is MANY


def load_summary(load_LE: np.ndarray, first_layer: int = 0) -> str:
  """The load of the least balanced layer, and the number of dead experts.

  Example, two layers of four experts with loads [[3, 1, 0, 0], [1, 1, 1, 1]]:
    load max/mean 3.00 (layer 0), dead 2 of 8
  """
  load_LE = np.asarray(load_LE)
  most, dead = extremes(load_LE)
  worst = int(np.argmax(most))
  number = np.count_nonzero(~np.isnan(load_LE))
  return (
    f'load max/mean {most[worst]:.2f} (layer {first_layer + worst}), '
    f'dead {sum(dead)} of {number}'
  )


def load_cells(
  load_LE: np.ndarray,
  width: int,
  ramp: str = RAMP,
  none: str = NONE,
  many: str = MANY,
) -> tuple[list[str], int]:
  """One text per layer, one cell per expert, by load over the layer's mean.

  With more experts than `width`, equally many neighbours share a cell, which
  then shows their average.

  Example, one layer with loads [0, 1, 4, 8, 4, 7], mean 4:
    width 6: '·▂▅█▅█', 1 to a cell
    width 3: '▂▇▇', 2 to a cell (averages 0.5, 6, 5.5 over 4)

  Experts that a layer does not have (NaN) are left out of averages, and a cell
  of them alone is blank.

  Returns:
    The texts, and how many experts share a cell.
  """
  ratio_LE = _ratios(load_LE)
  num_experts = ratio_LE.shape[1]
  per_cell = -(-num_experts // width)
  rows = []
  for ratio_E in ratio_LE:
    groups = [
      ratio_E[i : i + per_cell] for i in range(0, num_experts, per_cell)
    ]
    rows.append(''.join(_cell(group, ramp, none, many) for group in groups))
  return rows, per_cell


def _cell(ratio_G: np.ndarray, ramp: str, none: str, many: str) -> str:
  """The character of the average of some experts' loads."""
  ratio_G = ratio_G[~np.isnan(ratio_G)]
  if not len(ratio_G):
    return ' '
  mean = ratio_G.mean()
  if not mean:
    return none
  return many if mean > MANY_FROM else ramp[min(7, int(4 * mean + 0.5))]


def _ratios(load_LE: np.ndarray) -> np.ndarray:
  """Load over the layer's mean; zeros in a layer without any load.

  NaN, the load of an expert that its layer does not have, stays NaN.
  """
  load_LE = np.asarray(load_LE, np.float64)
  mean_L1 = np.nanmean(load_LE, axis=1, keepdims=True)
  return load_LE / np.where(mean_L1 > 0, mean_L1, 1)


def extremes(load_LE: np.ndarray) -> tuple[list[float], list[int]]:
  """By layer, the largest load over the mean, and how many experts are dead."""
  ratio_LE = _ratios(load_LE)
  most_L, is_dead_LE = np.nanmax(ratio_LE, axis=1), ratio_LE == 0
  return most_L.tolist(), is_dead_LE.sum(axis=1).tolist()


def worst(load_LE: np.ndarray, num: int) -> list[int]:
  """The `num` least balanced layers, in their order."""
  most, _ = extremes(load_LE)
  return sorted(sorted(range(len(most)), key=lambda i: -most[i])[:num])


def layer_names(load_LE: np.ndarray, first_layer: int) -> list[str]:
  """The names of all layers, of one width."""
  numbers = [str(first_layer + i) for i in range(len(load_LE))]
  return [f'layer {n:>{len(numbers[-1])}}' for n in numbers]
