"""Renders chat messages as a prompt, with the chat template of a model.

A template is a Jinja program that comes with the model. It is not trusted, so
it runs in Jinja's immutable sandbox: it can neither change its arguments nor
reach the internals of Python.
"""

import datetime
import json
from collections.abc import Sequence
from typing import Any

import jinja2
import jinja2.ext
import jinja2.sandbox
from etils import epath

from moejax.convert import companions, tokenizer
from moejax.core import errors

Message = dict[str, str]
# Exceptions that rendering a template may raise: Jinja's own, and those of the
# Python expressions in it.
RAISED = (jinja2.TemplateError, ArithmeticError, LookupError, TypeError,
          ValueError, AttributeError, RecursionError)  # fmt: skip


def render(
  place: epath.Path,
  messages: Sequence[Message],
  *,
  add_generation_prompt: bool = True,
) -> str:
  """The prompt whose continuation is the model's answer.

  The template writes all special tokens, the start token among them, so none is
  to be added when the prompt is encoded.

  Args:
    place: the folder of the model.
    messages: the chat so far; each message has `role` and `content`.
    add_generation_prompt: whether the turn of the assistant is opened; else the
      prompt ends with the content of the last message, which the model goes on
      with.

  Raises:
    InputError: the model has no template, or its template refuses the messages.
  """
  text = template(place)
  if text is None:
    raise errors.InputError(
      'the model has no chat template (chat_template.jinja, or chat_template '
      'in tokenizer_config.json); leave out --chat'
    )
  try:
    prompt = (
      _environment()
      .from_string(text)
      .render(
        messages=list(messages),
        tools=None,
        documents=None,
        add_generation_prompt=add_generation_prompt,
        **tokenizer.special_tokens(place),
      )
    )
  except RAISED as e:
    line = ' '.join(str(e).split()) or type(e).__name__
    raise errors.InputError(
      f"the model's chat template does not take this chat: {line}"
    ) from None
  return prompt if add_generation_prompt else _open(prompt, messages)


def _open(prompt: str, messages: Sequence[Message]) -> str:
  """The prompt up to the end of its last message's content."""
  last = messages[-1]['content']
  content = last.strip()
  if content not in prompt:
    raise errors.InputError(
      f"the model's chat template leaves out the last message "
      f'{content[:40]!r}: there is nothing to go on with'
    )
  at = prompt.rindex(content) + len(content)
  # White space at the content's end is kept where the template keeps it.
  rest = last[len(last.rstrip()) :]
  return (
    prompt[: at + len(rest)] if prompt[at:].startswith(rest) else prompt[:at]
  )


def template(place: epath.Path) -> str | None:
  """The chat template of a folder; None if it has none.

  Where tokenizer_config.json lists several, it is the one named `default`.
  """
  file = place / companions.TEMPLATE
  if file.is_file():
    return file.read_text(encoding='utf-8')
  for name in (companions.SETTINGS, 'chat_template.json'):
    templates: Any = companions.read(place / name).get('chat_template')
    if isinstance(templates, list):
      named = {entry.get('name'): entry.get('template') for entry in templates}
      templates = named.get('default')
    if isinstance(templates, str):
      return templates
  return None


class _Generation(jinja2.ext.Extension):
  """Accepts `{% generation %}` blocks and renders their content.

  In transformers these blocks mark the tokens that are trained on. A prompt for
  generation needs no such mark.
  """

  tags = {'generation'}  # noqa: RUF012 (Jinja declares it as a set)

  def parse(self, parser: Any) -> Any:
    next(parser.stream)
    return parser.parse_statements(['name:endgeneration'], drop_needle=True)


def _environment() -> jinja2.Environment:
  """A sandbox with the functions that transformers offers to templates."""
  environment = jinja2.sandbox.ImmutableSandboxedEnvironment(
    trim_blocks=True,
    lstrip_blocks=True,
    extensions=[_Generation, jinja2.ext.loopcontrols],
  )
  environment.filters['tojson'] = _to_json
  environment.globals['raise_exception'] = _refuse
  environment.globals['strftime_now'] = lambda form: (
    datetime.datetime.now().strftime(form)
  )
  return environment


def _to_json(x: Any, ensure_ascii: bool = False, **options: Any) -> str:
  """JSON without the HTML escapes that Jinja's own `tojson` adds."""
  return json.dumps(x, ensure_ascii=ensure_ascii, **options)


def _refuse(message: str) -> None:
  raise jinja2.TemplateError(message)
