"""Harness: a model as lm-evaluation-harness asks it.

lm-evaluation-harness (`lm_eval`, 0.4.13) hands a model lists of requests, whose
`args` depend on their kind:

  loglikelihood          (context, continuation) -> (nats, greedy)
  loglikelihood_rolling  (text,)                 -> nats
  generate_until         (context, gen_kwargs)   -> text

`Harness` answers them with a `ModelEngine`. It needs nothing of lm_eval;
`moejax/run/harness.py` joins it with the class that lm_eval expects.
"""

import functools
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from etils import epath

from moejax.convert import chat
from moejax.core import errors, trees
from moejax.evals.benchmark import Prompt
from moejax.evals.engine import ModelEngine
from moejax.evals.sampling import Sampling

# Names of the limit of new tokens, the first of which counts.
LIMITS = (
  'max_gen_toks',
  'max_new_tokens',
  'max_tokens',
  'max_completion_tokens',
)
MAX_TOKENS = 256  # the harness's default
# Entries of gen_kwargs that are understood, or have no effect on greedy text.
KNOWN = (*LIMITS, 'until', 'do_sample', 'temperature', 'top_p', 'top_k', 'seed')


class Request(Protocol):
  """An `Instance` of lm_eval, as far as it is read here."""

  @property
  def args(self) -> tuple[Any, ...]: ...


class Harness:
  """Answers the requests of lm-evaluation-harness.

  Attributes:
    engine: answers them.
    name: name of the model in the results.
    hf_folder: folder of the model's chat template; None without one.
    info: what the results say about the model.
  """

  engine: ModelEngine
  name: str
  hf_folder: epath.Path | None
  info: Mapping[str, Any]

  # The harness keeps answers in a data base with --use_cache.
  cache_hook: Any = None

  def set_cache_hook(self, cache_hook: Any) -> None:
    """Takes the hook that keeps answers."""
    self.cache_hook = cache_hook

  def loglikelihood(
    self, requests: Sequence[Request], disable_tqdm: bool = False
  ) -> list[tuple[float, bool]]:
    """(log-probability, whether greedy decoding writes it) of continuations."""
    del disable_tqdm
    asked = [(context, text) for context, text in (r.args for r in requests)]
    likelihoods = self.engine.likelihoods(asked)
    answers = [(x.log_prob, x.greedy) for x in likelihoods]
    return self._kept('loglikelihood', requests, answers)

  def loglikelihood_rolling(
    self, requests: Sequence[Request], disable_tqdm: bool = False
  ) -> list[float]:
    """Log-probability of whole texts."""
    del disable_tqdm
    likelihoods = self.engine.rolling([request.args[0] for request in requests])
    answers = [x.log_prob for x in likelihoods]
    return self._kept('loglikelihood_rolling', requests, answers)

  def generate_until(
    self, requests: Sequence[Request], disable_tqdm: bool = False
  ) -> list[str]:
    """Continuations, each up to its first stop string."""
    del disable_tqdm
    by_sampling: dict[tuple[Sampling, int], list[int]] = {}
    prompts = []
    for index, request in enumerate(requests):
      text, settings = request.args
      prompts.append(prompt_of(text, settings))
      key = sampling_of(settings), int(settings.get('seed', 0))
      by_sampling.setdefault(key, []).append(index)
    answers = [''] * len(requests)
    for (sampling, seed), indices in by_sampling.items():
      texts = self.engine.generate(
        [prompts[i] for i in indices], sampling, seed
      )
      for index, text in zip(indices, texts, strict=True):
        answers[index] = text
    return self._kept('generate_until', requests, answers)

  def apply_chat_template(
    self,
    chat_history: Sequence[dict[str, str]],
    add_generation_prompt: bool = True,
  ) -> str:
    """The prompt of a chat; without a generation prompt, its open last turn."""
    return chat.render(
      self._folder(), chat_history, add_generation_prompt=add_generation_prompt
    )

  def chat_template(self, chat_template: bool | str = False) -> str | None:
    """The template's text, which the results keep; None if it is not used."""
    if chat_template in (False, None):
      return None
    if isinstance(chat_template, str):
      raise errors.InputError(
        f'--apply_chat_template {chat_template}: moejax uses the default chat '
        'template of a model; leave the name out'
      )
    return chat.template(self._folder())

  @functools.cached_property
  def tokenizer_name(self) -> str:
    """A name of the vocabulary, by which the harness keeps requests."""
    text = f'moejax_{self.engine.vocab.fingerprint()}'
    return ''.join(c if c.isalnum() else '_' for c in text)

  def get_model_info(self) -> dict[str, Any]:
    """What the results say about the model."""
    model = self.engine.model
    return {
      'model_num_parameters': trees.count(model.shapes),
      'model_dtype': str(model.config.dtype),
      'max_length': self.engine.length,
      **self.info,
    }

  def _folder(self) -> epath.Path:
    if self.hf_folder is None:
      raise errors.InputError(
        f'{self.name} has no chat template: its model did not come with one; '
        'leave out --apply_chat_template'
      )
    return self.hf_folder

  def _kept(
    self, kind: str, requests: Sequence[Request], answers: list[Any]
  ) -> list[Any]:
    """The answers, after the harness has kept them."""
    if self.cache_hook is not None:
      for request, answer in zip(requests, answers, strict=True):
        self.cache_hook.add_partial(kind, request.args, answer)
    return answers


def prompt_of(text: str, settings: Mapping[str, Any]) -> Prompt:
  """A prompt with the stop strings and the limit of a request."""
  unknown = sorted(set(settings) - set(KNOWN))
  if unknown:
    raise errors.InputError(
      f'gen_kwargs has {unknown[0]}={settings[unknown[0]]!r}, which moejax '
      f'does not support; known are: {", ".join(KNOWN)}'
    )
  stops = settings.get('until') or []
  stops = [stops] if isinstance(stops, str) else stops
  limits = [settings[name] for name in LIMITS if settings.get(name) is not None]
  return Prompt(
    text,
    # An empty stop string stops nothing in the harness.
    stops=tuple(stop for stop in stops if stop),
    max_tokens=int(limits[0]) if limits else MAX_TOKENS,
  )


def sampling_of(settings: Mapping[str, Any]) -> Sampling:
  """How a request's tokens are chosen.

  They are drawn if `do_sample` is true or, where it is not set, if there is a
  temperature above 0.
  """
  temperature = float(settings.get('temperature') or 0.0)
  draws = settings.get('do_sample')
  if draws is None:
    draws = temperature > 0
  if not draws:
    return Sampling()
  return Sampling(
    temperature=temperature or 1.0,
    top_p=float(settings.get('top_p') or 1.0),
    top_k=int(settings.get('top_k') or 0),
  )
