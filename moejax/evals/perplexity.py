"""Loss, perplexity, bits per byte and expert use over validation sets."""

import dataclasses
import functools
import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from moejax.core import values
from moejax.data.batch import Batch
from moejax.data.cache import RowReader
from moejax.evals import answers
from moejax.evals.batches import eval_batches, num_eval_batches
from moejax.model.build import Model
from moejax.model.decoder import Decoder, DecoderOutput
from moejax.parallel import rules
from moejax.train import cross_entropy

# (weights, batch) -> a decoder bound to weights, and its output.
Outputs = Callable[[Any, Batch], tuple[Decoder, DecoderOutput]]

DRAWS = 1000  # of the bootstrap
ROWS = 'rows_B2'


@dataclasses.dataclass(frozen=True)
class Score:
  """How well a model predicts a text.

  Attributes:
    loss: nats per target token, the end of each document included.
    accuracy: share of target tokens that were the most probable token.
    tokens: number of target tokens.
    count_NE: number of assignments of each of E experts in the N layers with
      experts; None for a dense model.
    rows_R2: nats and target tokens of each row, float64; None if not known.
    answers: number of answers of conversations; 0 in other text.
    exact: the share of them that are exact, see `evals/answers.py`.
  """

  loss: float
  accuracy: float
  tokens: int
  count_NE: np.ndarray | None
  rows_R2: np.ndarray | None = None
  answers: int = 0
  exact: float | None = None

  @property
  def perplexity(self) -> float:
    """Exp of the mean loss (not the mean of exponentials)."""
    return math.exp(min(self.loss, 700.0))

  def bits_per_byte(self, num_bytes: float) -> float:
    """Bits of the text under the model, per byte of its UTF-8.

    Args:
      num_bytes: bytes of the text that was scored.
    """
    return self.loss * self.tokens / math.log(2) / num_bytes

  def loss_interval(self) -> tuple[float, float] | None:
    """The 95% confidence interval of the loss, by a bootstrap over rows.

    Rows are drawn again with replacement, 1,000 times from a fixed seed, and
    the ends are the 2.5% and 97.5% quantiles of their losses. Neighbouring rows
    of one document count as independent, so the interval is too narrow where
    documents are long.

    Returns:
      Its ends in nats per token; None with fewer than two rows.
    """
    if self.rows_R2 is None or len(self.rows_R2) < 2:
      return None
    count = len(self.rows_R2)
    stream = np.random.default_rng(0)
    weight_DR = stream.multinomial(count, np.full(count, 1 / count), DRAWS)
    nll_D, tokens_D = (weight_DR @ self.rows_R2).T
    low, high = np.quantile(nll_D / np.maximum(tokens_D, 1), (0.025, 0.975))
    return float(low), float(high)


def make_step(
  model: Model, outputs: Outputs | None = None
) -> Callable[[Any, Batch], dict[str, Any]]:
  """A jitted function (weights, batch) -> metrics that merge by `core.values`.

  The metrics are `loss`, `accuracy`, those of `evals/answers.py` and, with
  experts, `count_NE`. Beside them stands ROWS, which does not merge: nats and
  target tokens of each row.

  Args:
    model: the network.
    outputs: another pass than that of the model with its weights.
  """
  outputs = outputs or functools.partial(_outputs, model)
  # Replicated, so that every process of a run can read the values.
  whole = rules.replicated(model.mesh)

  @functools.partial(jax.jit, out_shardings=whole)
  def evaluate(weights: Any, batch: Batch) -> dict[str, Any]:
    decoder, out = outputs(weights, batch)
    nll, nll_BL, correct_BL = cross_entropy.on_mesh(
      out.x_BLD,
      decoder.head(),
      batch.target_BL,
      batch.weight_BL,
      model.mesh,
    )
    metrics: dict[str, Any] = {
      'loss': values.Mean(nll, jnp.sum(batch.weight_BL)),
      'accuracy': values.Mean.of(correct_BL, batch.weight_BL),
      'exact': answers.exact(correct_BL, batch.weight_BL, batch.segment_BL),
      'prompts': answers.prompts(batch.weight_BL, batch.segment_BL),
    }
    if model.config.num_moe:
      metrics['count_NE'] = out.record.stats['count_E']
    weight_BL = batch.weight_BL
    nats_B = jnp.sum(nll_BL * weight_BL, axis=-1)
    metrics[ROWS] = jnp.stack([nats_B, jnp.sum(weight_BL, axis=-1)], axis=-1)
    return metrics

  return evaluate


@functools.lru_cache(maxsize=4)
def step_of(model: Model) -> Callable[[Any, Batch], dict[str, Any]]:
  """The step of `make_step`, one for each model: it is compiled once.

  So the report of a run uses the program of its evaluations while training.
  """
  return make_step(model)


def _outputs(
  model: Model, weights: Any, batch: Batch
) -> tuple[Decoder, DecoderOutput]:
  """The pass of the model with its weights."""
  decoder = model.bind(weights)
  rest = batch.segment_BL, batch.position_BL
  return decoder, decoder(batch.token_BL, *rest, images=batch.images)


def evaluate(
  step: Callable[[Any, Batch], dict[str, Any]],
  weights: Any,
  batches: Iterable[Batch],
) -> Score:
  """The score on all batches; means are over tokens, not over batches.

  Raises:
    ValueError: there is no batch.
  """
  total: dict[str, Any] | None = None
  rows: list[jax.Array | None] = []
  for batch in batches:
    metrics, before = dict(step(weights, batch)), total
    rows.append(metrics.pop(ROWS, None))
    total = metrics if before is None else values.merge(before, metrics)
    # At most one batch ahead of the devices, so that a progress bar that counts
    # batches taken is right.
    jax.block_until_ready(before)
  if total is None:
    raise ValueError('no batch to evaluate on')
  tokens = int(total['loss'].weight)
  num_answers = int(total['exact'].weight) if 'exact' in total else 0
  metrics = jax.device_get(values.finish(total))
  in_talk = bool(metrics.get('prompts'))
  return Score(
    loss=float(metrics['loss']),
    accuracy=float(metrics['accuracy']),
    tokens=tokens,
    count_NE=metrics.get('count_NE'),
    rows_R2=_whole_rows(rows),
    answers=num_answers if in_talk else 0,
    exact=float(metrics['exact']) if in_talk else None,
  )


def _whole_rows(rows: list[jax.Array | None]) -> np.ndarray | None:
  """Nats and tokens of all rows that have targets."""
  arrays = [np.asarray(x, np.float64) for x in rows if x is not None]
  if len(arrays) < len(rows):
    return None
  rows_R2 = np.concatenate(arrays)
  return rows_R2[rows_R2[:, 1] > 0]


def score_sets(
  step: Callable[[Any, Batch], dict[str, Any]],
  model: Model,
  weights: Any,
  validation: Mapping[str, RowReader],
  *,
  limit: int,
  track: Callable[[Iterable[Any], str, int], Iterable[Any]],
  note: Callable[[str], None] = lambda _: None,
) -> dict[str, Score]:
  """The score on each validation set.

  Args:
    step: made by `make_step`.
    model: the network.
    weights: its weights.
    validation: readers of validation sets, by domain.
    limit: batches of each set; 0 for all.
    track: shows the progress through batches, see evals/subject.py.
    note: is called with a line before each set.
  """
  scores = {}
  for name, reader in validation.items():
    share = f'up to {limit} batches of its ' if limit else ''
    note(f'Evaluating on {name} ({share}{reader.num_tokens} tokens) ...')
    tracked = track(
      eval_batches(model, reader, limit),
      f'Evaluating on {name}',
      num_eval_batches(model, reader, limit),
    )
    scores[name] = evaluate(step, weights, tracked)
  return scores
