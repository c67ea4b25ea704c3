"""LLaVA checkpoints in Hugging Face folders: their parts, and their answers."""

import dataclasses
from collections.abc import Callable, Iterator

import jax

from moejax.convert import folder as folders
from moejax.convert import llava, processors, tokenizer
from moejax.core import errors, files, terminal
from moejax.evals import image_engine, suite
from moejax.evals.benchmark import Prompt
from moejax.evals.picture import Picture
from moejax.evals.sampling import Sampling
from moejax.evals.suite import Result
from moejax.parallel import mesh as meshes
from moejax.run import suite_table, suites


@dataclasses.dataclass(frozen=True)
class Question:
  """A prompt; each field is a flag of `cli.llava answer`.

  Attributes:
    folder: folder of the model, or `owner/name` on the hub.
    prompt: the text, with <image> where an image is; without one, images stand
      before it.
    images: folder of the images.
    names: paths of the images in it, in their order in the text.
    max_new_tokens: most tokens of the answer.
    temperature: of the answer; 0 takes the most probable tokens.
    seed: seed of sampling.
    raw: whether the chat template of the model is left out.
  """

  folder: str
  prompt: str
  images: str = '.'
  names: tuple[str, ...] = ()
  max_new_tokens: int = 128
  temperature: float = 0.0
  seed: int = 0
  raw: bool = False


def lines(place: str) -> Iterator[str]:
  """What a folder holds, without reading a tensor.

  Raises:
    InputError: it has no LLaVA that moejax reads.
  """
  plan = llava.plan(folders.open_folder(place))
  vision, config = plan.encoder.config, plan.decoder.config
  yield (
    f'{plan.folder.path} holds a LLaVA of {plan.num_parameters:,} parameters.'
  )
  yield (
    f'Encoder: a {plan.encoder.family.model_type} of {vision.num_layers} '
    f'layers of width {vision.width}, for images of {vision.image_size} x '
    f'{vision.image_size} pixels. Outputs of layers '
    f'{", ".join(map(str, plan.layers))} are read'
    f'{", without their first token" if plan.left_out else ""}.'
  )
  yield (
    f'Projector: {plan.widths[0]} to {plan.widths[1]} features, '
    f'{plan.activation} between two matrices.'
  )
  yield (
    f'Language model: a {plan.decoder.family.model_type} of '
    f'{config.num_layers} layers of width {config.width}, {config.num_moe} of '
    f'them with experts. An image takes {plan.num_features} of its '
    f'{config.max_length} tokens.'
  )
  try:
    yield f'Images are prepared by {processors.read(plan.folder.path)}.'
  except errors.InputError as e:
    yield f'Images cannot be prepared: {e}.'
  if lacks := tokenizer.lacking(plan.folder.path):
    yield f'{lacks}.'


@dataclasses.dataclass(frozen=True)
class Exam:
  """Benchmarks to ask; each field is a flag of `cli.llava evaluate`.

  Attributes:
    folder: folder of the model, or `owner/name` on the hub.
    data: folder of the benchmarks' rows.
    tasks: names in the suite `vision`; none for all of them.
    limit: rows of each configuration of a task; 0 for all.
    out: file of the results, JSON; '' for none.
    raw: whether the chat template of the model is left out.
  """

  folder: str
  data: str
  tasks: tuple[str, ...] = ()
  limit: int = 0
  out: str = ''
  raw: bool = False


def evaluate(exam: Exam, say: Callable[[str], None]) -> None:
  """Scores a model in benchmarks of images, and says each score.

  Args:
    exam: what is asked.
    say: is called with the lines of a table, and of what a reader should know.

  Raises:
    InputError: rows or the model cannot be used; the rows of all tasks are read
      before the model is.
  """
  request = suites.SuiteRequest(
    'vision', exam.tasks, exam.data, limit=exam.limit
  )
  asked = suites.ask(request, terminal.note)
  engine = _engine(exam.folder, exam.raw)
  results: dict[str, Result] = {}
  for task in asked:
    try:
      result = suite.score(task, engine)
    except errors.InputError as e:
      raise errors.InputError(f'{task.name}: {e}') from e
    results[task.name] = result
    terminal.note(f'{task.name}: {suites.in_words(result)}')
    if exam.out:
      whole = {name: one.to_json() for name, one in results.items()}
      files.atomic_write_json(exam.out, whole)
  scored = suites.Scored(exam.folder, None, results)
  for line in suite_table.lines([scored], []):
    say(line)


def _engine(folder: str, raw: bool) -> image_engine.ImageEngine:
  """The engine of a folder, on one device."""
  mesh = meshes.make(meshes.MeshConfig(data=1), jax.devices()[:1])
  engine = image_engine.open_folder(folder, mesh)
  return dataclasses.replace(engine, template=None) if raw else engine


def answer(question: Question) -> str:
  """The answer of a model to a prompt.

  Raises:
    InputError: the model, an image or the prompt cannot be used.
  """
  if not question.prompt.strip():
    raise errors.InputError("--prompt='' asks nothing; give it words")
  engine = _engine(question.folder, question.raw)
  pictures = tuple(
    Picture(f'--image={name}', None, question.images, name)
    for name in question.names
  )
  prompt = Prompt(
    question.prompt,
    lambda _: {},
    max_tokens=question.max_new_tokens,
    images=pictures,
  )
  sampling = Sampling(question.temperature)
  (text,) = engine.generate([prompt], sampling, question.seed)
  return text
