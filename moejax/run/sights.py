"""What a trained model sees: how it reads prompts with images."""

from collections.abc import Callable

from moejax.convert import companions
from moejax.core import errors
from moejax.evals import seeing
from moejax.evals.engine import ModelEngine
from moejax.evals.image_engine import ImageEngine
from moejax.evals.sight import Sight
from moejax.model.build import Weights
from moejax.run import turns
from moejax.run.trained import Trained


def of(trained: Trained) -> Sight | None:
  """How a model reads images; None if it reads text alone.

  Raises:
    InputError: the images of its config do not fit the model.
  """
  data = trained.run.data
  return seeing.sight_of(trained.model, data.vocab, data.images)


def engine(
  trained: Trained,
  weights: Weights,
  text: ModelEngine,
  note: Callable[[str], None],
) -> ModelEngine | ImageEngine:
  """The engine that asks a model what benchmarks ask.

  A model of text alone, and tasks without an image, are asked by `text`.
  Prompts with images are put into the chat template of the model, if it has
  one.

  Args:
    trained: the model.
    weights: its weights.
    text: the engine of its texts.
    note: is called with a line if there is no chat template.

  Raises:
    InputError: the images of its config do not fit the model.
  """
  sight = of(trained)
  if sight is None:
    return text
  try:
    chat = turns.vocab_of(trained)
  except errors.InputError:
    note('The model has no chat template: prompts are read as they are.')
    ends = companions.end_ids(trained.hf_folder, trained.run.data.vocab)
    return ImageEngine(sight, weights, tuple(ends), text=text, track=text.track)
  own = turns.ends_of(trained, chat)
  return ImageEngine(
    sight,
    weights,
    tuple(own.ids),
    chat.template,
    chat.start,
    own.stops,
    text,
    track=text.track,
  )
