"""The chat template of a model: messages to the text that it was trained on.

A template is Jinja, comes with the model and is not trusted: it runs in Jinja's
sandbox, which lets it neither change what it is given nor reach Python's
insides.
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
# What an expression of a template may raise, beside Jinja's own.
RAISED = (jinja2.TemplateError, ArithmeticError, LookupError, TypeError,
          ValueError, AttributeError, RecursionError)  # fmt: skip


def render(place: epath.Path, messages: Sequence[Message]) -> str:
  """The text whose continuation is the model's answer.

  It has all special tokens that belong there, the first one too.

  Args:
    place: the folder of the model.
    messages: each with `role` and `content`.

  Raises:
    InputError: the model has no template, or it refuses these messages.
  """
  text = template(place)
  if text is None:
    raise errors.InputError(
      'the model has no chat template (chat_template.jinja, or chat_template '
      'in tokenizer_config.json); leave out --chat'
    )
  try:
    return (
      _environment()
      .from_string(text)
      .render(
        messages=list(messages),
        tools=None,
        documents=None,
        add_generation_prompt=True,
        **tokenizer.special_tokens(place),
      )
    )
  except RAISED as e:
    line = ' '.join(str(e).split()) or type(e).__name__
    raise errors.InputError(
      f"the model's chat template does not take this chat: {line}"
    ) from None


def template(place: epath.Path) -> str | None:
  """The template of a folder; of several the one named `default`."""
  file = place / companions.TEMPLATE
  if file.is_file():
    return file.read_text(encoding='utf-8')
  for name in (companions.SETTINGS, 'chat_template.json'):
    templates: Any = companions.read(place / name).get('chat_template')
    if isinstance(templates, list):
      named = {one.get('name'): one.get('template') for one in templates}
      templates = named.get('default')
    if isinstance(templates, str):
      return templates
  return None


class _Generation(jinja2.ext.Extension):
  """`{% generation %}` marks what is trained on; here it marks nothing."""

  tags = {'generation'}  # noqa: RUF012 (as Jinja wants it)

  def parse(self, parser: Any) -> Any:
    next(parser.stream)
    return parser.parse_statements(['name:endgeneration'], drop_needle=True)


def _environment() -> jinja2.Environment:
  """With the functions that templates of transformers count on."""
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


def _to_json(x: Any, ensure_ascii: bool = False, **how: Any) -> str:
  """Without the escapes of HTML that Jinja's own has."""
  return json.dumps(x, ensure_ascii=ensure_ascii, **how)


def _refuse(message: str) -> None:
  raise jinja2.TemplateError(message)
