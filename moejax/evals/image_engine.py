"""ImageEngine: answers prompts of images and text with a LLaVA.

  engine = image_engine.open_folder('llava-1.5-7b-hf', mesh)
  engine.generate([Prompt('What is this?', images=(picture,))])

A prompt is put into the chat template of the model, if it has one. Each <image>
of the text becomes as many image tokens as an image has features.
"""

import dataclasses
import pathlib
from collections.abc import Sequence
from typing import Any

import jax
from etils import epath

from moejax.convert import (
  companions,
  folder,
  llava,
  llava_model,
  processors,
  tokenizer,
  whole,
)
from moejax.core import errors
from moejax.data.chat import templates
from moejax.data.vocab import Ids
from moejax.evals import stopped
from moejax.evals.benchmark import Likelihood, Prompt
from moejax.evals.engine import ModelEngine
from moejax.evals.sampling import Sampling
from moejax.evals.sight import Sight
from moejax.evals.subject import Track, untracked


@dataclasses.dataclass(frozen=True)
class ImageEngine:
  """An `Engine` (evals/benchmark.py) of a model that reads images and text.

  Attributes:
    sight: how the model reads prompts.
    weights: its weights.
    end_ids: ids that end a generated text.
    template: chat template of the prompts; None: prompts are read as they are.
    start: ids that a prompt begins with; None: those of the vocabulary, or
      none before a chat template.
    stops: strings that end a text, beside those of a prompt.
    text: asks what has no image at all; None: it is asked as what has some.
    rows: prompts that are continued at a time.
    track: shows progress.
  """

  sight: Sight
  weights: Any
  end_ids: tuple[int, ...]
  template: templates.Template | None = None
  start: tuple[int, ...] | None = None
  stops: tuple[str, ...] = ()
  text: ModelEngine | None = None
  rows: int = 8
  track: Track = untracked

  def likelihoods(self, pairs: Sequence[tuple[str, str]]) -> list[Likelihood]:
    """Those of the decoder, which reads text alone."""
    if self.text is not None:
      return self.text.likelihoods(pairs)
    model = self.sight.model
    decoder = model.of_decoder(self.weights)
    return ModelEngine(model.decoder, decoder, self.sight.vocab).likelihoods(
      pairs
    )

  def generate(
    self,
    prompts: Sequence[Prompt],
    sampling: Sampling = Sampling(),  # noqa: B008 (greedy; frozen)
    seed: int = 0,
  ) -> list[str]:
    """The continuation of each prompt, cut at its first stop string.

    Args:
      prompts: texts and images, stop strings and limits.
      sampling: how tokens are chosen; the most probable one unless set.
      seed: seed of sampling.

    Raises:
      InputError: a prompt has another number of <image> than of images, or is
        too long for the model; or an image cannot be read.
    """
    if self.text is not None and not any(one.images for one in prompts):
      return self.text.generate(prompts, sampling, seed)
    model, weights = self.sight.model, self.weights
    ids = [self.ids(prompt) for prompt in prompts]
    room = model.decoder.config.max_length
    for prompt, own in zip(prompts, ids, strict=True):
      stopped.check(prompt.stops, prompt.max_tokens)
      if len(own) > room:
        raise errors.InputError(
          f'the prompt {prompt.text[:40]!r}... has {len(own)} tokens with '
          f'those of its images, but the model reads {room}; shorten it'
        )
    settings = stopped.Settings(sampling, self.end_ids, (), seed, self.rows)
    texts: list[str] = []
    shown = self.track(range(len(prompts)), 'Generating', len(prompts))
    for at in range(0, len(prompts), self.rows):
      part = slice(at, at + self.rows)
      texts += stopped.generate(
        model.decoder,
        model.of_decoder(weights),
        self.sight.vocab,
        [
          self._request(*one)
          for one in zip(prompts[part], ids[part], strict=True)
        ],
        settings,
      )
      for _ in prompts[part]:
        next(shown, None)
    next(shown, None)  # its end
    return texts

  def ids(self, prompt: Prompt) -> list[int]:
    """The ids of a prompt, with an image token for each feature.

    Raises:
      InputError: it has another number of <image> than of images.
    """
    text = self.sight.marked(prompt.text, len(prompt.images))
    start = self.start
    if start is None:
      start = () if self.template else self.sight.vocab.start
    return self.sight.ids(self.rendered(text), start)

  def rendered(self, text: str) -> str:
    """The text in the chat template, if there is one."""
    if self.template is None:
      return text
    message = {'role': 'user', 'content': text}
    return self.sight.rendered(self.template, [message])

  def _request(self, prompt: Prompt, ids: Sequence[int]) -> stopped.Request:
    """The prompt with the features of its images in place."""
    x_LD = self.sight.read(self.weights, ids, prompt.images)
    stops, text = (*prompt.stops, *self.stops), tuple(self.sight.text(ids))
    return stopped.Request(text, stops, prompt.max_tokens, x_LD)


def open_folder(
  place: str, mesh: jax.sharding.Mesh, track: Track = untracked
) -> ImageEngine:
  """The engine of a LLaVA in a folder.

  Args:
    place: the folder, or `owner/name` on the hub.
    mesh: the devices.
    track: shows progress.

  Raises:
    InputError: the folder has no LLaVA that moejax reads, no tokenizer with an
      image token, or no image processor.
  """
  plan = llava.plan(folder.open_folder(place))
  source = epath.Path(plan.folder.path)
  vocab = tokenizer.vocab(source, plan.decoder.config.vocab_size)
  if isinstance(vocab, Ids):
    raise errors.InputError(
      f'{source}: {tokenizer.lacking(source)}: fetch it, for prompts are text'
    )
  whole.check_token(source, vocab, plan.image_token)
  steps = processors.read(pathlib.Path(source))
  text = templates.of_folder(source)
  template = None
  if text is not None:
    name = f'the chat template in {errors.shown(source)}'
    template = templates.Template(text, name, templates.special_tokens(source))
  model = llava_model.model(plan, mesh)
  return ImageEngine(
    Sight(model, vocab, steps),
    llava_model.weights(plan, model),
    tuple(companions.end_ids(source, vocab)),
    template,
    track=track,
  )
