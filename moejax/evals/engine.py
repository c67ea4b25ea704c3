r"""ModelEngine: answers the items of benchmarks with a model.

  engine = ModelEngine(model, weights, vocab)
  engine.likelihoods([('The sky is', ' blue'), ('The sky is', ' made of tin')])
  engine.generate([Prompt('1 + 1 =', judge, stops=('\n',), max_tokens=8)])

All processes of a run call an engine together, with the same texts; its rows
are split over the devices of the model's mesh, and every process gets all
answers.
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Sequence

import jax

from moejax.convert import companions
from moejax.core import errors
from moejax.data.vocab import Vocab
from moejax.evals import shared_prefix, stopped
from moejax.evals.benchmark import Likelihood, Prompt
from moejax.evals.encoding import Encoder, Scored
from moejax.evals.sampling import Sampling
from moejax.evals.subject import Subject, Track, untracked
from moejax.model.build import Model, Weights


@dataclasses.dataclass(frozen=True)
class ModelEngine:
  """An `Engine` (evals/benchmark.py) of a model, its weights and vocabulary.

  Attributes:
    model: the network, on its mesh.
    weights: its weights; may be numpy arrays.
    vocab: its vocabulary.
    end_ids: ids that end a generated text; None for the vocabulary's end.
    max_length: most tokens that the model reads; 0 for `model.max_length`.
    special_tokens: whether special tokens in texts stand for themselves.
    silent_ids: ids that are left out of generated text, beside `end_ids`.
    batch_tokens: tokens of a batch; 0 for what suits the devices.
    few_shapes: whether options are scored in few shapes of batches; None: by
      the amount of text, see `shapes`.
    batch_rows: texts that are continued at a time.
    note: is called with a line about what was cut.
    cut: is called with the number of texts that were cut.
    track: shows progress.
  """

  model: Model
  weights: Weights
  vocab: Vocab
  end_ids: Sequence[int] | None = None
  max_length: int = 0
  special_tokens: bool = False
  silent_ids: Sequence[int] = ()
  batch_tokens: int = 0
  few_shapes: bool | None = None
  batch_rows: int = 32
  note: Callable[[str], None] = lambda _: None
  cut: Callable[[int], None] = lambda _: None
  track: Track = untracked

  @classmethod
  def of(cls, subject: Subject) -> 'ModelEngine':
    """The engine of the model that an evaluation scores.

    Raises:
      InputError: the model has no text vocabulary.
    """
    vocab = subject.data.vocab
    if vocab is None:
      raise errors.InputError(
        'data.mixture has made-up rows without a vocabulary: there is no text '
        'to ask the model about; set another data.mixture'
      )
    return cls(
      subject.model,
      subject.weights,
      vocab,
      end_ids=companions.end_ids(subject.hf_folder, vocab),
      note=subject.note,
      track=subject.track,
    )

  @property
  def length(self) -> int:
    """Most tokens that the model reads."""
    return self.max_length or self.model.config.max_length

  @functools.cached_property
  def encoder(self) -> Encoder:
    """Encodes texts for this model."""
    if self.vocab.size > self.model.config.vocab_size:
      raise errors.InputError(
        f'the vocabulary has {self.vocab.size} ids, but the model '
        f'{self.model.config.vocab_size}; use the vocabulary of that model'
      )
    return Encoder(self.vocab, self.length, self.special_tokens)

  def likelihoods(self, pairs: Sequence[tuple[str, str]]) -> list[Likelihood]:
    """That of each continuation after its context: (context, continuation).

    Raises:
      InputError: a continuation is empty, or longer than the model's context.
    """
    requests = self.encoder.pairs(pairs)
    self._say_cut([request.cut for request in requests])
    return self._likelihoods(requests)

  def rolling(self, texts: Sequence[str]) -> list[Likelihood]:
    """That of each whole text, all of whose tokens are predicted once.

    A text longer than the model's context is read in windows, as in
    `Encoder.windows`.

    Raises:
      InputError: a text is empty.
    """
    windows = [self.encoder.windows(text) for text in texts]
    flat = self._likelihoods([w for own in windows for w in own])
    sums, at = [], 0
    for own in windows:
      likelihoods = flat[at : at + len(own)]
      at += len(own)
      sums.append(
        Likelihood(
          math.fsum(x.log_prob for x in likelihoods),
          all(x.greedy for x in likelihoods),
          sum(x.tokens for x in likelihoods),
        )
      )
    return sums

  def generate(
    self,
    prompts: Sequence[Prompt],
    sampling: Sampling = Sampling(),  # noqa: B008 (greedy; frozen)
    seed: int = 0,
  ) -> list[str]:
    """The continuation of each prompt, cut at its first stop string.

    Args:
      prompts: texts, stop strings and limits.
      sampling: how tokens are chosen; the most probable one unless set.
      seed: seed of sampling.

    Raises:
      InputError: a stop string is empty, or a limit is below 1.
    """
    for prompt in prompts:
      stopped.check(prompt.stops, prompt.max_tokens)
      if prompt.images:
        raise errors.InputError(
          f'the prompt {prompt.text[:40]!r}... has images, and the model reads '
          'text alone (model.vision.name=none): ask one that reads images'
        )
    inputs = self.encoder.prompts(
      [prompt.text for prompt in prompts],
      [prompt.max_tokens for prompt in prompts],
    )
    self._say_cut([cut for _, cut in inputs])
    end_ids = self.end_ids
    if end_ids is None:
      end_ids = [self.vocab.eos_id] if self.vocab.eos_id >= 0 else []
    return stopped.generate(
      self.model,
      self._placed,
      self.vocab,
      [
        stopped.Request(tuple(ids), prompt.stops, prompt.max_tokens)
        for (ids, _), prompt in zip(inputs, prompts, strict=True)
      ],
      stopped.Settings(
        sampling, tuple(end_ids), tuple(self.silent_ids), seed, self.batch_rows
      ),
      track=self.track,
    )

  @functools.cached_property
  def _placed(self) -> Weights:
    """The weights on the devices."""
    return jax.device_put(self.weights, self.model.shardings)

  def _likelihoods(self, requests: Sequence[Scored]) -> list[Likelihood]:
    scores = shared_prefix.log_probs(
      self.model,
      self._placed,
      requests,
      tokens=self.batch_tokens,
      few=self.few_shapes,
      track=self.track,
    )
    likelihoods = []
    for index in range(len(requests)):
      log_prob_M, greedy_M = scores[index]
      total = math.fsum(map(float, log_prob_M))
      likelihoods.append(
        Likelihood(total, bool(greedy_M.all()), len(log_prob_M))
      )
    return likelihoods

  def _say_cut(self, cuts: Sequence[int]) -> None:
    """Says how many texts were cut, if any were."""
    if cut := [x for x in cuts if x]:
      self.cut(len(cut))
      self.note(
        f'{len(cut)} of {len(cuts)} texts are longer than the {self.length} '
        f'tokens that the model reads: up to {max(cut)} tokens were cut from '
        'their beginning'
      )
