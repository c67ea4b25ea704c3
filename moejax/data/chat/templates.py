"""Chat templates: programs that make the text of a conversation.

A model learns conversations in one form, its template: a Jinja program in the
folder of its tokenizer, one of the built-in ones, or a file.
"""

import dataclasses
import functools
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from etils import epath

from moejax.core import errors
from moejax.data.chat import messages as messages_lib
from moejax.data.chat import sandbox

FILE, OLDER = 'chat_template.jinja', 'chat_template.json'
SETTINGS, SPECIAL_MAP = 'tokenizer_config.json', 'special_tokens_map.json'
_FOLDER = epath.Path(__file__).parent / 'built_in'
# Built-in templates by name; each is a file of the folder `built_in`.
BUILT_IN: Mapping[str, epath.Path] = {
  'chatml': _FOLDER / 'chatml.jinja',
  'deepseek': _FOLDER / 'deepseek.jinja',
  'llama_2': _FOLDER / 'llama_2.jinja',
  'vicuna': _FOLDER / 'vicuna.jinja',
}


class Rendered(NamedTuple):
  """The text of a conversation.

  Attributes:
    text: all of it.
    spans: (start, end) of the text of each `{% generation %}` block.
  """

  text: str
  spans: list[tuple[int, int]]


@dataclasses.dataclass(frozen=True)
class Template:
  """A chat template with the special tokens that it writes.

  Attributes:
    text: the Jinja program.
    place: where it is from, for errors.
    tokens: texts of special tokens by name, such as `eos_token`.
  """

  text: str
  place: str
  tokens: Mapping[str, str]

  @property
  def marks_answers(self) -> bool:
    """Whether it has `{% generation %}` blocks, which mark what is trained."""
    return re.search(r'{%-?\s*generation\b', self.text) is not None

  def render(
    self,
    messages: Sequence[messages_lib.Message],
    *,
    add_generation_prompt: bool = False,
  ) -> Rendered:
    """The text of a conversation, its special tokens included.

    Args:
      messages: each has `role` and `content`.
      add_generation_prompt: whether the turn of the assistant is opened.

    Raises:
      InputError: the template is not Jinja.
      ProblemError: it does not take these messages.
    """
    values = {
      'messages': [*messages],
      'tools': None,
      'documents': None,
      'add_generation_prompt': add_generation_prompt,
      **self.tokens,
    }
    try:
      text = sandbox.rendered(self._program, values)
    except sandbox.RenderProblemError as e:
      raise messages_lib.ProblemError(
        f'the chat template does not take it: {e}'
      ) from None
    return _without_marks(text)

  @functools.cached_property
  def unwritten(self) -> tuple[str, ...]:
    """Roles whose words it leaves out, as if there were none.

    A template that reads messages as lists of parts writes no text of others.
    """
    # Words without a space, for which some templates write another character.
    said = {'user': 'Ahoy', messages_lib.ANSWERING: 'Aloha'}
    turns = [{'role': role, 'content': text} for role, text in said.items()]
    try:
      text = self.render(turns).text.lower()
    except messages_lib.ProblemError:  # it wants other messages
      return ()
    return tuple(role for role in said if said[role].lower() not in text)

  @functools.cached_property
  def _program(self) -> Any:
    try:
      return sandbox.compiled(self.text)
    except sandbox.SyntaxProblemError as e:
      raise errors.InputError(
        f'{self.place} is not a Jinja template: {e}'
      ) from None


def _without_marks(text: str) -> Rendered:
  """A text and the places that were marked in it."""
  parts = re.split(
    f'({re.escape(sandbox.BEGIN)}|{re.escape(sandbox.END)})', text
  )
  kept, length, begin = [], 0, 0
  spans: list[tuple[int, int]] = []
  for part in parts:
    if part == sandbox.BEGIN:
      begin = length
    elif part == sandbox.END:
      spans.append((begin, length))
    else:
      kept.append(part)
      length += len(part)
  return Rendered(''.join(kept), spans)


def find(name: str, vocab: Any, key: str) -> Template:
  """The template that a config names.

  Args:
    name: name of a built-in one, or path of a file; '' for that of the
      tokenizer.
    vocab: the tokenizer.
    key: the config key that names it, for errors.

  Raises:
    InputError: there is no such template.
  """
  folder = folder_of(vocab)
  tokens = special_tokens(folder) if folder else {}
  tokens = {**_tokens_of(vocab), **tokens}
  if not name:
    text = None if folder is None else of_folder(folder)
    if text is None:
      listed = ', '.join(BUILT_IN)
      raise errors.InputError(
        f'the tokenizer of data.vocab has no chat template beside it: set '
        f'{key} to one of {listed}, or to a .jinja file'
      )
    return Template(text, f'the chat template in {folder}', tokens)
  place = path(name, key)
  try:
    text = place.read_text(encoding='utf-8')
  except (OSError, ValueError) as e:
    reason = getattr(e, 'strerror', None) or e
    raise errors.InputError(
      f'{key}={name!r} cannot be read: {reason}'
    ) from None
  return Template(text, f'{key}={name!r}', tokens)


def path(name: str, key: str) -> epath.Path:
  """The file of a template that is named.

  Args:
    name: name of a built-in one, or path of a file.
    key: the config key, for errors.

  Raises:
    InputError: it is neither.
  """
  if name in BUILT_IN:
    return BUILT_IN[name]
  file = epath.Path(name).expanduser()
  if not file.is_file():
    listed = ', '.join(BUILT_IN)
    raise errors.InputError(
      f'{key}={name!r} is neither a file nor one of {listed}'
    )
  return file


def folder_of(vocab: Any) -> epath.Path | None:
  """The folder of a tokenizer's file; None where it has none."""
  file = getattr(vocab, 'path', '')
  return epath.Path(file).expanduser().parent if file else None


def of_folder(place: epath.Path) -> str | None:
  """The text of the template in a folder; None if it has none.

  A file of its own comes before the entry of tokenizer_config.json. Where that
  lists several, it is the one named `default`.

  Raises:
    InputError: the file holds no text.
  """
  file = place / FILE
  if file.is_file():
    try:
      return file.read_text(encoding='utf-8')
    except (OSError, ValueError) as e:
      reason = getattr(e, 'strerror', None) or e
      raise errors.InputError(f'{file} cannot be read: {reason}') from None
  for name in (SETTINGS, OLDER):
    templates: Any = read_json(place / name).get('chat_template')
    if isinstance(templates, list):
      templates = next(
        (
          entry.get('template')
          for entry in templates
          if isinstance(entry, dict) and entry.get('name') == 'default'
        ),
        None,
      )
    if isinstance(templates, str):
      return templates
  return None


def special_tokens(place: epath.Path) -> dict[str, str]:
  """The texts of `bos_token`, `eos_token` and others that a folder names."""
  tokens = {}
  # As in transformers: special_tokens_map.json, the older file, is read only if
  # tokenizer_config.json does not list the added tokens.
  settings = read_json(place / SETTINGS)
  older = read_json(place / SPECIAL_MAP)
  sources = (settings, older if 'added_tokens_decoder' not in settings else {})
  for values in sources:
    for key, value in values.items():
      text = value.get('content') if isinstance(value, dict) else value
      if key.endswith('_token') and isinstance(text, str):
        tokens[key] = text
  return tokens


def _tokens_of(vocab: Any) -> dict[str, str]:
  """Special tokens that a vocabulary itself knows."""
  tokens = {
    'bos_token': getattr(vocab, 'start_token', ''),
    'eos_token': vocab.eos_text(),
  }
  return {key: text for key, text in tokens.items() if text}


def read_json(file: epath.Path) -> dict[str, Any]:
  """The JSON object of a file; an empty one if the file does not exist.

  Raises:
    InputError: the file holds no JSON object.
  """
  if not file.is_file():
    return {}
  try:
    content = json.loads(file.read_text(encoding='utf-8'))
  except ValueError as e:
    raise errors.InputError(f'{file} is not JSON: {e}') from None
  if not isinstance(content, dict):
    raise errors.InputError(f'{file} must be a JSON object')
  return content
