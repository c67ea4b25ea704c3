"""Messages of a conversation, from the two schemas of files in use.

  {"messages": [{"role": "user", "content": "Hi"}, ...]}
  {"conversations": [{"from": "human", "value": "Hi"}, ...]}

The first is that of OpenAI and transformers, the second that of ShareGPT and
LLaVA.
"""

import dataclasses
import hashlib
import json
from collections.abc import Callable, Mapping
from typing import Any

Message = dict[str, Any]

ANSWERING = 'assistant'
IMAGE = '<image>'  # stands for an image in the text of a message
ROLES = ('system', 'developer', 'user', ANSWERING, 'tool', 'function')
# Roles of ShareGPT's schema, as the roles of the other one.
SPEAKERS: Mapping[str, str] = {
  'human': 'user',
  'user': 'user',
  'gpt': ANSWERING,
  'chatgpt': ANSWERING,
  'assistant': ANSWERING,
  'model': ANSWERING,
  'system': 'system',
  'tool': 'tool',
  'function': 'function',
}


class ProblemError(Exception):
  """A conversation that cannot be used; its text says why."""


@dataclasses.dataclass(frozen=True)
class Conversation:
  """Messages in their order, the last of which is an answer.

  Attributes:
    where: place of the conversation: 'file:line'.
    messages: each has `role` and `content`, and any further keys of the file.
    images: paths of its images, in the order of the `<image>` in its messages.
  """

  where: str
  messages: tuple[Message, ...]
  images: tuple[str, ...] = ()

  @property
  def answers(self) -> list[int]:
    """The indices of the answers among the messages."""
    return [i for i, m in enumerate(self.messages) if m['role'] == ANSWERING]

  def sha256(self) -> bytes:
    """A hash of messages and images, wherever they stand."""
    text = json.dumps(self.messages, sort_keys=True)
    if self.images:
      text += json.dumps(self.images)
    return hashlib.sha256(text.encode()).digest()


def parse(
  where: str, row: Mapping[str, Any], *, images: bool = False
) -> Conversation:
  """The conversation of an object of a file.

  Messages behind the last answer are left out: nothing is learned from them.

  Args:
    where: its place.
    row: the object.
    images: whether it may have images, under `image` or `images`.

  Raises:
    ProblemError: it holds no conversation with an answer.
  """
  schema = next((name for name in SCHEMAS if name in row), None)
  if schema is None:
    known = ', '.join(map(repr, row)) or 'none'
    raise ProblemError(
      f'no field {" or ".join(map(repr, SCHEMAS))}; has {known}'
    )
  if not images and (row.get('image') or row.get('images')):
    raise ProblemError(
      'has an image, which a model of text cannot read (data.images.folder)'
    )
  listed = row[schema]
  if not isinstance(listed, list) or not listed:
    raise ProblemError(f'field {schema!r} must be a list of messages')
  messages = [
    _message(number, entry, SCHEMAS[schema])
    for number, entry in enumerate(listed, 1)
  ]
  while messages and messages[-1]['role'] != ANSWERING:
    messages.pop()
  if not messages:
    raise ProblemError(f'no answer: none of its messages is by {ANSWERING!r}')
  if messages[0]['role'] == ANSWERING:
    raise ProblemError('begins with an answer, before anything was asked')
  named = _images(row, messages, len(listed)) if images else ()
  return Conversation(where, tuple(messages), named)


def _images(
  row: Mapping[str, Any], messages: list[Message], length: int
) -> tuple[str, ...]:
  """The images of the messages, each of which has its `<image>`.

  Args:
    row: the object.
    messages: those up to the last answer.
    length: number of all messages of the object.
  """
  found = row.get('image') or row.get('images') or []
  named = found if isinstance(found, list) else [found]
  if not all(isinstance(name, str) and name for name in named):
    raise ProblemError('its image must be a path, or a list of paths')
  if any(IMAGE in m['content'] for m in messages if m['role'] == ANSWERING):
    raise ProblemError(f'an answer has {IMAGE}; only what is asked can')
  places = sum(m['content'].count(IMAGE) for m in messages)
  # Messages behind the last answer are left out, and their images with them.
  if places != len(named) and (len(messages) == length or places > len(named)):
    raise ProblemError(
      f'has {len(named)} images and {places} {IMAGE}; each image needs one'
    )
  return tuple(named[:places])


def _message(
  number: int, entry: Any, read: Callable[[Mapping[str, Any]], Message]
) -> Message:
  if not isinstance(entry, dict):
    raise ProblemError(f'message {number} is not a JSON object')
  try:
    message = read(entry)
  except KeyError as e:
    raise ProblemError(f'message {number} has no {e.args[0]!r}') from None
  if message['role'] not in ROLES:
    known = ', '.join(ROLES)
    raise ProblemError(
      f'message {number} has the role {message["role"]!r}; known are {known}'
    )
  message['content'] = _text(number, message)
  return message


def _text(number: int, message: Message) -> str:
  """The content of a message: text, or a list of parts that are text."""
  content = message['content']
  if content is None and message.get('tool_calls'):
    return ''
  if isinstance(content, list):
    if any(
      not isinstance(part, dict) or not isinstance(part.get('text'), str)
      for part in content
    ):
      raise ProblemError(f'message {number} has a part that is not text')
    content = ''.join(part['text'] for part in content)
  if not isinstance(content, str):
    kind = type(content).__name__
    raise ProblemError(f'message {number} holds {kind}, not text')
  try:
    content.encode()
  except UnicodeEncodeError:
    raise ProblemError(f'message {number} has half a surrogate pair') from None
  if '\0' in content:
    raise ProblemError(f'message {number} has a NUL, as binary data has')
  empty = not content.strip() and not message.get('tool_calls')
  if message['role'] == ANSWERING and empty:
    raise ProblemError(f'message {number} is an empty answer')
  return content


def _of_messages(entry: Mapping[str, Any]) -> Message:
  calls = bool(entry.get('tool_calls'))
  content = entry.get('content') if calls else entry['content']
  return {**entry, 'role': entry['role'], 'content': content}


def _of_turns(entry: Mapping[str, Any]) -> Message:
  speaker = entry['from']
  role = SPEAKERS.get(str(speaker).lower(), str(speaker))
  return {'role': role, 'content': entry['value']}


# The field of an object that holds its messages, and a reader of one of them.
SCHEMAS: Mapping[str, Callable[[Mapping[str, Any]], Message]] = {
  'messages': _of_messages,
  'conversations': _of_turns,
}
