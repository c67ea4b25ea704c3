"""A model of different numbers of experts by layer, as one of equal numbers.

Formats of other projects have one number of experts for all layers. Where the
router has a bias for each expert, a bias of -10,000 keeps the places without an
expert (`moe.uneven`) out of every choice, and the function is the same:

  bias of the logits      the scorer linear with bias=true (gpt-oss)
  bias of the selection   DeepSeek-V3, GLM-4.5, ERNIE 4.5 and their kin; a gate
                          must not depend on experts that are not chosen, so the
                          score is no softmax, or gates are renormalised
"""

import dataclasses
from collections.abc import Callable

import numpy as np

from moejax.compress.layer_weights import PREFIX
from moejax.convert.save import Indexed
from moejax.core import errors, table
from moejax.model.config import ModelConfig
from moejax.moe import balance
from moejax.moe.balance.bias import SelectionBias

# Below every logit and score, and within the range of float16.
OUT_OF_CHOICE = -1e4

# Why a model without such a bias is not written.
NO_PLACE = (
  'which no format of Hugging Face has, and the router has no bias that could '
  'keep the missing ones out of its choice'
)

# (path, weight) -> the weight to write in its place.
Replace = Callable[[str, Indexed], Indexed]


def with_biases(config: ModelConfig) -> tuple[ModelConfig, Replace]:
  """The config without `moe.experts_by_layer`, and what its weights are.

  Args:
    config: of the model.

  Raises:
    InputError: its router has no such bias.
  """
  moe = config.moe
  in_use_NE = moe.used_choices
  path = '' if in_use_NE is None else path_of_bias(config)
  if path is None:
    raise errors.InputError(
      'layers have different numbers of experts '
      f'(model.moe.experts_by_layer={moe.experts_by_layer}), {NO_PLACE}; keep '
      'the same number in every layer'
    )
  bias = PREFIX + path if path else ''

  def replace(path: str, weight: Indexed) -> Indexed:
    if path != bias:
      return weight
    assert in_use_NE is not None  # else there is no `bias`
    return np.where(in_use_NE, np.asarray(weight[...]), OUT_OF_CHOICE).astype(
      np.float32
    )

  moe = dataclasses.replace(moe, experts_by_layer=())
  return dataclasses.replace(config, moe=moe), replace


def path_of_bias(config: ModelConfig) -> str | None:
  """The path in a layer of a bias that takes experts out of the choice.

  None if the router has no such bias.
  """
  moe = config.moe
  if getattr(moe.scorer, 'bias', False):
    return 'router/b_E'
  score = getattr(moe.router, 'score', 'softmax')
  is_by_chosen = getattr(moe.router, 'renormalise', False)
  for part in moe.balance:
    if isinstance(part, SelectionBias) and (score != 'softmax' or is_by_chosen):
      name = table.name_of(balance.BALANCE, part)
      return f'router_state/{name}/selection_bias_E'
  return None
