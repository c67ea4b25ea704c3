"""ExpertStatistics: what the experts of a model did with one domain's text."""

import dataclasses
import io
import zipfile

import numpy as np
from etils import epath

from moejax.core import errors, files

# The fields that two texts of one domain add up.
SUMS = (
  'count_NE',
  'gate_NE',
  'norm_NE',
  'gate_norm_NE',
  'gate_token_NE',
  'easy_ep_NE',
  'logit_gram_NEE',
)

# What NumPy raises for files of another kind, and for cut ones.
UNREADABLE = (
  AttributeError,
  EOFError,
  KeyError,
  OSError,
  TypeError,
  ValueError,
)


@dataclasses.dataclass(frozen=True)
class ExpertStatistics:
  """Sums over the tokens of one domain, for each expert of each layer.

  N layers have experts, E each. An expert is activated by a token if the router
  assigned the token to it and its output was computed. For such a pair, g is
  the final gate weight (renormalised and scaled, as the output is multiplied
  with it) and E(h) the expert's output before that product. For a token t,

    s_t = max(0, 1 - cos(h_t, h_t + routed_t))

  is EASY-EP's token contribution (arXiv 2504.06792, section 3.2): how far the
  routed experts' weighted sum turns the residual stream. h_t is the residual
  stream before the layer; shared experts are not in routed_t.

  Attributes:
    tokens: number of tokens; padding is not counted.
    count_NE: activations.
    gate_NE: sum of g.
    norm_NE: sum of ||E(h)||_2.
    gate_norm_NE: sum of g ||E(h)||_2.
    gate_token_NE: sum of g s_t.
    easy_ep_NE: sum of g ||E(h)||_2 s_t.
    logit_gram_NEE: sum over all tokens of logit_i logit_j, the router's logits.
    output_gram_NEE: sum over all tokens of the dot product of the outputs of
      experts i and j, with every expert computed for every token; None if the
      outputs were not asked for.
    first_layer: number of the first of the N layers in the model.
    checkpoint: fingerprint of the weights; '' if unknown.
    tokenizer: fingerprint of the tokenizer; '' if unknown.
  """

  tokens: int
  count_NE: np.ndarray
  gate_NE: np.ndarray
  norm_NE: np.ndarray
  gate_norm_NE: np.ndarray
  gate_token_NE: np.ndarray
  easy_ep_NE: np.ndarray
  logit_gram_NEE: np.ndarray
  output_gram_NEE: np.ndarray | None = None
  first_layer: int = 0
  checkpoint: str = ''
  tokenizer: str = ''

  def __post_init__(self):
    layers, experts = self.count_NE.shape
    for name in (*SUMS, 'output_gram_NEE'):
      array = getattr(self, name)
      shape = (layers, experts, experts)[: len(name.rpartition('_')[2])]
      if array is not None and array.shape != shape:
        raise ValueError(f'{name} has shape {array.shape}, not {shape}')

  @property
  def num_layers(self) -> int:
    """N, the number of layers with experts."""
    return self.count_NE.shape[0]

  @property
  def num_experts(self) -> int:
    """E, the number of routed experts of a layer."""
    return self.count_NE.shape[1]

  @property
  def frequency(self) -> np.ndarray:
    """[N, E]: share of a layer's activations of each expert; M-SMoE's alpha.

    A layer without any activation has 1 / E for each expert.
    """
    return normalised(self.count_NE)

  def merged(self, other: 'ExpertStatistics') -> 'ExpertStatistics':
    """The statistics of both texts together.

    Raises:
      InputError: the two are of different checkpoints, tokenizers or layers, or
        one alone has outputs.
    """
    for name in ('checkpoint', 'tokenizer', 'first_layer'):
      mine, others = getattr(self, name), getattr(other, name)
      if mine != others:
        raise errors.InputError(
          f'statistics of {name} {mine!r} cannot be added to those of '
          f'{others!r}; collect both from the same model'
        )
    if self.count_NE.shape != other.count_NE.shape:
      raise errors.InputError(
        f'statistics of {self.count_NE.shape} layers and experts cannot be '
        f'added to those of {other.count_NE.shape}; collect both from the same '
        'model'
      )
    mine, theirs = self.output_gram_NEE, other.output_gram_NEE
    if (mine is None) != (theirs is None):
      raise errors.InputError(
        "only one of two statistics has the experts' outputs; collect both "
        'with them, or both without'
      )
    return dataclasses.replace(
      self,
      tokens=self.tokens + other.tokens,
      output_gram_NEE=None if mine is None or theirs is None else mine + theirs,
      **{name: getattr(self, name) + getattr(other, name) for name in SUMS},
    )

  def save(self, path: epath.PathLike) -> None:
    """Writes a .npz file, whole or not at all."""
    fields = {
      field.name: getattr(self, field.name)
      for field in dataclasses.fields(self)
      if getattr(self, field.name) is not None
    }
    buffer = io.BytesIO()
    np.savez(buffer, **fields)
    files.atomic_write_bytes(path, buffer.getvalue())

  @classmethod
  def load(
    cls,
    path: epath.PathLike,
    checkpoint: str | None = None,
    tokenizer: str | None = None,
  ) -> 'ExpertStatistics':
    """Reads a file of `save`.

    Args:
      path: of the file.
      checkpoint: fingerprint that the file must have; None takes any.
      tokenizer: the same for the tokenizer.

    Raises:
      InputError: there is no such file, it is not one of `save`, or it is of
        another checkpoint or tokenizer.
    """
    shown = errors.shown(path)
    try:
      with np.load(io.BytesIO(epath.Path(path).read_bytes())) as arrays:
        fields = {name: arrays[name] for name in arrays.files}
      for kind, names in (
        (int, ('tokens', 'first_layer')),
        (str, ('checkpoint', 'tokenizer')),
      ):
        fields |= {name: kind(fields[name]) for name in names}
      statistics = cls(**fields)
    except FileNotFoundError:
      raise errors.InputError(
        f'there are no statistics at {shown}; collect them first'
      ) from None
    except (*UNREADABLE, zipfile.BadZipFile):
      raise errors.InputError(
        f'{shown} does not hold statistics of experts; collect them anew'
      ) from None
    wanted = {'checkpoint': checkpoint, 'tokenizer': tokenizer}
    for name, value in wanted.items():
      stored = getattr(statistics, name)
      if value is not None and stored != value:
        raise errors.InputError(
          f'the statistics in {shown} are of another {name} ({stored!r}, not '
          f'{value!r}); collect them anew'
        )
    return statistics


def normalised(score_NE: np.ndarray) -> np.ndarray:
  """The scores, float64, over their sum in each layer.

  A layer whose scores are all zero, as those of a text without tokens, says
  nothing of its experts: each gets 1 / E.

  Args:
    score_NE: scores that are at least 0.
  """
  score_NE = np.asarray(score_NE, np.float64)
  total_N1 = score_NE.sum(axis=1, keepdims=True)
  uniform = np.full_like(score_NE, 1 / score_NE.shape[1])
  return np.divide(score_NE, total_N1, out=uniform, where=total_N1 > 0)
