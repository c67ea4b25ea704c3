"""Prompts of `cli.generate` as token ids, with the images that they name."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from moejax.convert import chat, companions
from moejax.core import errors
from moejax.evals.picture import Picture
from moejax.evals.sight import MARK, Sight
from moejax.model.build import Weights
from moejax.run import sights, turns
from moejax.run.trained import Trained


@dataclasses.dataclass(frozen=True)
class GenerationRequest:
  """Prompts and how to continue them; each field is a flag of `cli.generate`.

  Attributes:
    prompt: texts to continue.
    prompt_ids: token ids to continue, as they are; in place of `prompt`.
    images: the images of all prompts, in the order of the `<image>` in them; of
      one prompt without `<image>` they stand before it.
    chat: puts each text into the chat template, as the message of a user.
    template: another chat template, as `data.chat.template`; '' for the
      model's own.
    special_tokens: reads special tokens in texts as such.
    max_new_tokens: most new tokens of each prompt.
    temperature: temperature of sampling; None is the model's default, as for
      the next two (see evals/settings.py).
    top_p: probability of nucleus sampling.
    top_k: number of tokens to draw from.
    seed: seed of sampling; None is 0.
  """

  prompt: Sequence[str] = ()
  prompt_ids: Sequence[Sequence[int]] = ()
  images: Sequence[Picture] = ()
  chat: bool = False
  template: str = ''
  special_tokens: bool = True
  max_new_tokens: int = 128
  temperature: float | None = None
  top_p: float | None = None
  top_k: int | None = None
  seed: int | None = None

  def check(self) -> None:
    """Raises InputError if fields do not go together."""
    if bool(self.prompt) == bool(self.prompt_ids):
      raise errors.InputError('give --prompt or --prompt_ids, one of the two')
    if self.prompt_ids and self.images:
      raise errors.InputError(
        f'{self.images[0].where} is for --prompt: ids are taken as they are'
      )
    if self.prompt_ids and self.chat:
      raise errors.InputError(
        '--chat is for --prompt: ids are taken as they are'
      )
    if self.template and not self.chat:
      raise errors.InputError('--template is for --chat: give both')
    if not self.special_tokens and (self.prompt_ids or self.chat):
      raise errors.InputError(
        '--no-special_tokens is for --prompt without --chat; leave it out'
      )


@dataclasses.dataclass(frozen=True)
class Seen:
  """Prompts with images.

  Attributes:
    sight: how the model reads them.
    ids: of each prompt, with image tokens; see `Sight.ids`.
    pictures: the images of each prompt.
    shown: ids of each prompt as it is shown.
  """

  sight: Sight
  ids: Sequence[Sequence[int]]
  pictures: Sequence[Sequence[Picture]]
  shown: Sequence[Sequence[int]]

  def embeddings(self, weights: Weights) -> np.ndarray:
    """The embeddings x_BLD of all prompts, padded.

    Raises:
      InputError: an image cannot be read.
    """
    rows = [
      self.sight.read(weights, ids, pictures)
      for ids, pictures in zip(self.ids, self.pictures, strict=True)
    ]
    length = max(map(len, rows))
    return np.stack([
      np.pad(x_LD, ((0, length - len(x_LD)), (0, 0))) for x_LD in rows
    ])


@dataclasses.dataclass(frozen=True)
class Prompts:
  """Prompts as a model is to continue them.

  Attributes:
    ids: of each prompt, without `start`.
    start: ids that every text begins with.
    ends: what ends a text.
    seen: the prompts with their images; None if no prompt has one.
  """

  ids: list[list[int]]
  start: Sequence[int]
  ends: turns.Ends
  seen: Seen | None = None


def read(trained: Trained, request: GenerationRequest) -> Prompts:
  """The prompts of a request; no weights are needed.

  Raises:
    InputError: the request does not fit the model.
  """
  vocab = trained.run.data.vocab
  sight = sights.of(trained)
  if sight is None and request.images:
    raise errors.InputError(
      f'{request.images[0].where}: the model of {trained.workdir} reads text '
      'alone (model.vision.name=none): leave the images out'
    )
  if sight is not None and (
    request.images or any(MARK in text for text in request.prompt)
  ):
    return _seen(trained, request, sight)
  if request.chat and (
    request.template or turns.are_own(trained) or sight is not None
  ):
    chat_vocab = turns.vocab_of(trained, request.template)
    prompts = [turns.asked(chat_vocab, text, sight) for text in request.prompt]
    return Prompts(prompts, (), turns.ends_of(trained, chat_vocab))
  ends = turns.Ends(companions.end_ids(trained.hf_folder, vocab))
  # Ids, and the text of a chat template, have their start tokens already.
  start = () if request.prompt_ids or request.chat else vocab.start
  return Prompts(_of_text(trained, request), start, ends)


def _seen(
  trained: Trained, request: GenerationRequest, sight: Sight
) -> Prompts:
  """Prompts with images, and perhaps some without."""
  if not request.special_tokens:
    raise errors.InputError(
      f'--no-special_tokens: {MARK} in a prompt is a special token; leave the '
      'flag out'
    )
  vocab, pictures = trained.run.data.vocab, _dealt(request)
  texts = [
    sight.marked(text, len(own))
    for text, own in zip(request.prompt, pictures, strict=True)
  ]
  if request.chat:
    chat_vocab = turns.vocab_of(trained, request.template)
    ends, start = turns.ends_of(trained, chat_vocab), chat_vocab.start
    asked = [
      sight.rendered(chat_vocab.template, [{'role': 'user', 'content': text}])
      for text in texts
    ]
  else:
    ends = turns.Ends(companions.end_ids(trained.hf_folder, vocab))
    start, asked = tuple(vocab.start), texts
  ids = [sight.ids(text, start) for text in asked]
  for image in request.images:
    sight.image(image)  # its errors come before the weights are read
  shown = [vocab.encode_prompt(text) for text in texts]
  seen = Seen(sight, ids, pictures, shown)
  return Prompts([sight.text(own) for own in ids], (), ends, seen)


def _dealt(request: GenerationRequest) -> list[tuple[Picture, ...]]:
  """The images of each prompt."""
  counts = [text.count(MARK) for text in request.prompt]
  if len(counts) == 1 and not counts[0]:
    return [tuple(request.images)]
  if sum(counts) != len(request.images):
    raise errors.InputError(
      f'the prompts have {sum(counts)} {MARK}, and {len(request.images)} '
      'images are given (--image): give each image one place'
    )
  rest = iter(request.images)
  return [tuple(next(rest) for _ in range(count)) for count in counts]


def _of_text(trained: Trained, request: GenerationRequest) -> list[list[int]]:
  """The ids of prompts without images."""
  vocab = trained.run.data.vocab
  if request.prompt_ids:
    return [list(ids) for ids in request.prompt_ids]
  if not request.chat:
    encode = vocab.encode_prompt if request.special_tokens else vocab.encode
    return [encode(text) for text in request.prompt]
  if trained.hf_folder is None:
    raise errors.InputError(
      f'{trained.workdir} has no chat template: its model did not come with '
      'one; name one with --template, or leave out --chat'
    )
  messages = [[{'role': 'user', 'content': text}] for text in request.prompt]
  return [
    vocab.encode_prompt(chat.render(trained.hf_folder, conversation))
    for conversation in messages
  ]
