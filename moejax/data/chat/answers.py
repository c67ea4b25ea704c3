"""Finds the answers in the text of a conversation, which are trained on.

A template that marks them with `{% generation %}` says where they are. With any
other template the text is rendered once up to each answer, its turn opened, and
once with it: the answer is what the second text has more. Its marker of the end
belongs to it, or a model would not learn to stop; white space behind that
marker does not.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from moejax.data.chat import messages as messages_lib
from moejax.data.chat.templates import Template

Span = tuple[int, int]


class Marked(NamedTuple):
  """The text of a conversation with its answers.

  Attributes:
    text: all of it.
    spans: (start, end) of each answer in the text, in their order; None for an
      answer that the template shows otherwise once it is in the past.
  """

  text: str
  spans: list[Span | None]


def _last(spans: Sequence[Span | None]) -> Sequence[Span | None]:
  return spans[-1:]


# What `loss` of the config can be: from all answers to those that are targets.
LOSSES: Mapping[str, Callable[[Sequence], Sequence]] = {
  'all_answers': lambda spans: spans,
  'last_answer': _last,
}


def find(
  template: Template, conversation: messages_lib.Conversation, loss: str
) -> Marked:
  """The text of a conversation, and the places of its answers.

  Args:
    template: of the model.
    conversation: the messages.
    loss: an entry of LOSSES; its answers have a place.

  Raises:
    ProblemError: the template does not take the messages, or shows an answer
      of the loss otherwise than it would have been written.
  """
  if template.marks_answers:
    text, spans = template.render(conversation.messages)
    if not spans:
      raise messages_lib.ProblemError(
        'the chat template marks no answer of it ({% generation %})'
      )
    _check_written(template)
    return Marked(text, [*spans])
  text = template.render(conversation.messages).text
  _check_written(template)
  spans_: list[Span | None] = [
    _span(template, conversation.messages, at, text)
    for at in conversation.answers
  ]
  if None in LOSSES[loss](spans_):
    number = 1 + spans_.index(None)
    raise messages_lib.ProblemError(
      f'the chat template shows answer {number} otherwise than the model '
      'writes it (reasoning that is left out of the past?); train on the last '
      'answer alone (chat.loss=last_answer), or name a template with '
      '{% generation %}'
    )
  return Marked(text, spans_)


def _check_written(template: Template) -> None:
  if messages_lib.ANSWERING in template.unwritten:
    raise messages_lib.ProblemError(
      f'{template.place} leaves out what answers say (it may read lists of '
      'parts alone); name another one (chat.template)'
    )


def _span(
  template: Template,
  messages: Sequence[messages_lib.Message],
  at: int,
  text: str,
) -> Span | None:
  """The place of the answer `messages[at]`; None if it is not in the text."""
  asked = template.render(messages[:at], add_generation_prompt=True).text
  answered = template.render(messages[: at + 1]).text
  if not answered.startswith(asked):
    return None
  shown = answered[len(asked) :]
  if shown.rstrip() != messages[at]['content'].strip():
    answered = asked + shown.rstrip()  # it has a marker of the end
  return (len(asked), len(answered)) if text.startswith(answered) else None
