"""Trace: what the routers of one checkpoint did with each token of a text.

A trace is made by `run/tracing.py`, kept as Parquet (`trace_file.py` has the
columns), and read by the measures. The ids are [tokens, layers, k], the layout
in which vLLM, NeMo RL and tunix record routings for their replay.

Example, 2 tokens, 1 layer, k=2, 4 experts, the second token has one expert:

    expert_TNK  [[[2, 0]], [[3, -1]]]
    weight_TNK  [[[0.6, 0.3]], [[1.0, 0.0]]]
"""

import dataclasses
from collections.abc import Sequence

import numpy as np

NOWHERE = -1  # the expert id of a rank that has no expert


@dataclasses.dataclass(frozen=True)
class Trace:
  """The routings of T tokens in N layers with experts, as NumPy arrays.

  Attributes:
    step: optimiser steps behind the checkpoint.
    tokens_seen: tokens that the checkpoint was trained on; 0 if unknown.
    layers: numbers in the model of the N layers, in their order, from 0.
    num_experts: number of choices in a layer, those without weights included.
    in_use: numbers of the choices that each of the N layers has, where layers
      have different ones (`moe.uneven`); () if all layers have all.
    domains: names of the validation sets, or of the files.
    expert_TNK: int16, the experts of each token, that with the largest weight
      first; `NOWHERE` where a token has fewer than k.
    weight_TNK: float32, the weights of the experts' outputs; 0 for `NOWHERE`.
    dropped_TNK: bool, whether the expert had no room, so that it did not
      compute the token.
    entropy_TN: float32, entropy of the router's probabilities, nats.
    token_T: int32, ids in the vocabulary.
    position_T: int32, the position that the model computes with: from 0 in each
      document, and again where a document goes on in another row.
    document_T: int32, number of the token's document, over all domains.
    domain_T: int16, index into `domains`.
    logits_TNE: float32, the router's logits, if they were asked for.
  """

  step: int
  tokens_seen: int
  layers: tuple[int, ...]
  num_experts: int
  domains: tuple[str, ...]
  expert_TNK: np.ndarray
  weight_TNK: np.ndarray
  dropped_TNK: np.ndarray
  entropy_TN: np.ndarray
  token_T: np.ndarray
  position_T: np.ndarray
  document_T: np.ndarray
  domain_T: np.ndarray
  logits_TNE: np.ndarray | None = None
  in_use: tuple[tuple[int, ...], ...] = ()

  @property
  def k(self) -> int:
    """The largest number of experts of a token."""
    return self.expert_TNK.shape[2]

  def has(self, n: int) -> np.ndarray:
    """has_E: which choices the n-th layer has; the others are no experts."""
    if not self.in_use:
      return np.ones(self.num_experts, bool)
    return np.isin(np.arange(self.num_experts), self.in_use[n])

  def only(self, keep_T: np.ndarray) -> 'Trace':
    """The trace of some tokens: a mask [T] or indices."""
    arrays = {
      field.name: value[keep_T]
      for field in dataclasses.fields(self)
      if isinstance(value := getattr(self, field.name), np.ndarray)
    }
    return dataclasses.replace(self, **arrays)

  def of_domain(self, name: str) -> 'Trace':
    """The trace of the tokens of one domain."""
    return self.of_domains((name,))

  def of_domains(self, names: Sequence[str]) -> 'Trace':
    """The trace of the tokens of some domains."""
    numbers = [self.domains.index(name) for name in names]
    return self.only(np.isin(self.domain_T, numbers))
