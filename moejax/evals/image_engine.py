"""ImageEngine: answers prompts of images and text with a LLaVA.

  engine = image_engine.open_folder('llava-1.5-7b-hf', mesh)
  engine.generate([Prompt('What is this?', images=(picture,))])

A prompt is put into the chat template of the model, if it has one. Each <image>
of the text becomes as many image tokens as an image has features.
"""

import dataclasses
import functools
import pathlib
import re
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
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
from moejax.data.chat import messages as messages_lib
from moejax.data.chat import templates
from moejax.data.vocab import Ids, Vocab
from moejax.evals import generate, stopped
from moejax.evals.benchmark import Likelihood, Prompt
from moejax.evals.engine import ModelEngine
from moejax.evals.picture import Picture
from moejax.evals.sampling import Sampling
from moejax.evals.subject import Track, untracked
from moejax.vision.images import ReadConfig
from moejax.vision.preprocessing import Preprocessing, preprocess

MARK = '<image>'  # of an image in a text
# Rows of embeddings are padded to a multiple of it: few shapes are compiled.
_LENGTHS = 64


@dataclasses.dataclass(frozen=True)
class ImageEngine:
  """An `Engine` (evals/benchmark.py) of a model that reads images and text.

  Attributes:
    model: the structure of the model.
    weights: its weights.
    vocab: its vocabulary.
    steps: how images are prepared.
    end_ids: ids that end a generated text.
    template: chat template of the prompts; None: prompts are read as they are.
    reading: how images are read.
    rows: prompts that are continued at a time.
    track: shows progress.
  """

  model: llava_model.Llava
  weights: llava_model.Weights
  vocab: Vocab
  steps: Preprocessing
  end_ids: tuple[int, ...]
  template: templates.Template | None = None
  reading: ReadConfig = ReadConfig()
  rows: int = 8
  track: Track = untracked

  def likelihoods(self, pairs: Sequence[tuple[str, str]]) -> list[Likelihood]:
    """Those of the decoder, which reads text alone."""
    decoder = self.weights[llava_model.DECODER]
    engine = ModelEngine(self.model.decoder, decoder, self.vocab)
    return engine.likelihoods(pairs)

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
    ids = [self.ids(prompt) for prompt in prompts]
    room = self.model.decoder.config.max_length
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
        self.model.decoder,
        self.weights[llava_model.DECODER],
        self.vocab,
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
    text = prompt.text
    if MARK not in text:
      text = f'{MARK}\n' * len(prompt.images) + text
    count = text.count(MARK)
    if count != len(prompt.images):
      raise errors.InputError(
        f'the prompt {text[:40]!r}... has {count} {MARK} and '
        f'{len(prompt.images)} images; give each image one place'
      )
    found: list[int] = []
    for one in self.vocab.encode_prompt(self.rendered(text)):
      is_image = one == self.model.image_token
      found += [one] * (self.model.num_features if is_image else 1)
    wanted = count * self.model.num_features
    if found.count(self.model.image_token) != wanted:
      raise errors.InputError(
        f'the tokenizer or the chat template of the model does not keep {MARK}'
        f': {count} of them became {found.count(self.model.image_token)} image '
        f'tokens (id {self.model.image_token}), not {wanted}'
      )
    start = () if self.template else self.vocab.start
    return generate.begun(found, start)

  def rendered(self, text: str) -> str:
    """The text in the chat template, if there is one."""
    if self.template is None:
      return text
    # Templates of models with images read parts; others read the whole text.
    parts: list[dict[str, str]] = []
    for number, piece in enumerate(re.split(f'{MARK}\n?', text)):
      parts += [{'type': 'image'}] if number else []
      parts += [{'type': 'text', 'text': piece}] if piece else []
    problem: Exception | None = None
    for content in (parts, text):
      messages: list[Any] = [{'role': 'user', 'content': content}]
      try:
        made = self.template.render(messages, add_generation_prompt=True).text
      except messages_lib.ProblemError as e:
        problem = e
        continue
      plain = text.replace(f'{MARK}\n', MARK).split(MARK)
      if made.count(MARK) == text.count(MARK) and plain[-1].strip() in made:
        return made
    raise errors.InputError(
      f'{self.template.place} does not write the prompt with its {MARK}'
      f'{f" ({problem})" if problem else ""}; leave the template out'
    )

  def _request(self, prompt: Prompt, ids: Sequence[int]) -> stopped.Request:
    """The prompt with the features of its images in place."""
    padded = -(-len(ids) // _LENGTHS) * _LENGTHS
    token_BL = np.zeros((1, padded), np.int32)
    token_BL[0, : len(ids)] = ids
    x_BLD = self._embed(self.weights, token_BL, self._features(prompt.images))
    text = np.where(token_BL == self.model.image_token, 0, token_BL)
    return stopped.Request(
      tuple(text[0, : len(ids)].tolist()),
      prompt.stops,
      prompt.max_tokens,
      np.asarray(x_BLD)[0, : len(ids)],
    )

  def _features(self, pictures: Sequence[Picture]) -> np.ndarray:
    """feature_BID of all images of one prompt; zeros without an image."""
    width = self.model.decoder.config.width
    found = [np.zeros((1, width), np.float32)] if not pictures else []
    for picture in pictures:
      image_HWC = preprocess(picture.pixels(self.reading), self.steps)
      side = self.model.vision.image_size
      if image_HWC.shape[:2] != (side, side):
        rows, columns = image_HWC.shape[:2]
        raise errors.InputError(
          f'{picture.where}: the image processor of the model makes images of '
          f'{rows} x {columns} pixels, and its encoder reads {side} x {side}; '
          f'correct {processors.FILE}'
        )
      found.append(np.asarray(self._encode(self.weights, image_HWC[None])[0]))
    return np.concatenate(found)[None]

  @functools.cached_property
  def _encode(self) -> Callable[..., jax.Array]:
    return jax.jit(self.model.features)

  @functools.cached_property
  def _embed(self) -> Callable[..., jax.Array]:
    return jax.jit(self.model.embeddings)


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
    model,
    llava_model.weights(plan, model),
    vocab,
    steps,
    tuple(companions.end_ids(source, vocab)),
    template,
    track=track,
  )
