"""The turns of a chat with a trained model: their template, and their ends."""

import dataclasses
from collections.abc import Iterable, Iterator, Sequence

from moejax.config import kept_tokenizer
from moejax.convert import companions
from moejax.core import errors
from moejax.data.chat import Chat, templates
from moejax.data.chat.messages import ProblemError
from moejax.data.chat.tokens import ChatVocab
from moejax.evals.sight import Sight
from moejax.run.trained import Trained


@dataclasses.dataclass(frozen=True)
class Ends:
  """What ends an answer.

  Attributes:
    ids: tokens.
    stops: strings, which are not part of the answer.
  """

  ids: list[int]
  stops: tuple[str, ...] = ()


def vocab_of(trained: Trained, template: str = '') -> ChatVocab:
  """The vocabulary with the chat template of a trained model.

  The template is that of the model's Hugging Face files. A model without such
  files has that of the conversations it was tuned on.

  Args:
    trained: the model.
    template: another template, as `data.chat.template`; '' for the model's own.

  Raises:
    InputError: there is none.
  """
  vocab, folder = trained.run.data.vocab, trained.hf_folder
  own = folder is not None and templates.of_folder(folder) is not None
  used = trained.run.data.chat_used()
  kept = None
  if not template and not own and used is not None:
    kept = kept_tokenizer.chat_template(trained.workdir)
    template = used.template
  result = ChatVocab(vocab, Chat(template), '--template', kept=kept)
  _ = result.template  # whether it can be found
  return result


def ends_of(
  trained: Trained, vocab: ChatVocab, stops: tuple[str, ...] = ()
) -> Ends:
  """What ends an answer of a model: an end of text, of a turn, or a stop.

  Args:
    trained: the model.
    vocab: its vocabulary with the chat template.
    stops: further strings.
  """
  ends = companions.end_ids(trained.hf_folder, vocab.vocab)
  if text := vocab.turn_end:
    ((ids, _),) = vocab.vocab.encode_spans([text], [[]])
    if len(ids) == 1:
      ends += [i for i in ids if i not in ends]
    else:
      stops = (*stops, text)
  return Ends(ends, stops)


def are_own(trained: Trained) -> bool:
  """Whether a run of no Hugging Face folder was trained on conversations."""
  used = trained.run.data.chat_used()
  return trained.hf_folder is None and used is not None


def asked(vocab: ChatVocab, text: str, sight: Sight | None = None) -> list[int]:
  """The ids of a chat in which a user says a text, up to the answer.

  Args:
    vocab: the vocabulary with the chat template.
    text: what the user says.
    sight: how the model reads images; None if it reads text alone.

  Raises:
    InputError: the template does not take it.
  """
  messages = [{'role': 'user', 'content': text}]
  if sight is not None:
    # The templates of such models may read lists of parts alone.
    return sight.ids(sight.rendered(vocab.template, messages), vocab.start)
  try:
    return vocab.prompt(messages)
  except ProblemError as e:
    raise errors.InputError(str(e)) from None


def before_stop(pieces: Iterable[str], stops: Sequence[str]) -> Iterator[str]:
  """The text before the first stop string, as soon as it cannot be part of one.

  Example, stops ['END']:
    pieces  'a E', 'N', 'x', ' EN', 'D b'
    yields  'a ', 'ENx', ' '
  """
  held = ''
  for piece in pieces:
    held += piece
    found = [at for stop in stops if (at := held.find(stop)) >= 0]
    if found:
      if min(found):
        yield held[: min(found)]
      return
    keep = max(
      (n for stop in stops for n in range(len(stop)) if _ends(held, stop, n)),
      default=0,
    )
    if len(held) > keep:
      yield held[: len(held) - keep]
      held = held[len(held) - keep :]
  if held:
    yield held


def _ends(text: str, stop: str, size: int) -> bool:
  """Whether a text ends with the first `size` characters of a stop string."""
  return text.endswith(stop[:size])
