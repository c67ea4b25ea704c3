"""Jinja's immutable sandbox, as transformers sets it up for chat templates.

A template is a program that comes with a model. It is not trusted: in the
sandbox it can neither change its arguments nor reach the internals of Python.
Source: transformers 5.24, its module utils.chat_template_utils.
"""

import datetime
import json
from collections.abc import Mapping
from typing import Any

# Around the text of `{% generation %}` blocks. No message has a NUL.
BEGIN, END = '\0[', '\0]'


def compiled(text: str) -> Any:
  """A template as a program, with the functions that transformers offers.

  Raises:
    SyntaxProblemError: it is not Jinja.
  """
  import jinja2
  import jinja2.ext
  import jinja2.sandbox

  class Generation(jinja2.ext.Extension):
    """`{% generation %}` blocks: their text is rendered between two marks."""

    tags = {'generation'}  # noqa: RUF012 (Jinja declares it as a set)

    def parse(self, parser: Any) -> Any:
      line = next(parser.stream).lineno
      mark = lambda text: jinja2.nodes.Output(
        [jinja2.nodes.TemplateData(text)], lineno=line
      )
      body = parser.parse_statements(['name:endgeneration'], drop_needle=True)
      return [mark(BEGIN), *body, mark(END)]

  environment = jinja2.sandbox.ImmutableSandboxedEnvironment(
    trim_blocks=True,
    lstrip_blocks=True,
    extensions=[Generation, jinja2.ext.loopcontrols],
  )
  environment.filters['tojson'] = _to_json
  environment.globals['raise_exception'] = _refuse
  environment.globals['strftime_now'] = lambda form: (
    datetime.datetime.now().strftime(form)
  )
  try:
    return environment.from_string(text)
  except jinja2.TemplateSyntaxError as e:
    raise SyntaxProblemError(f'line {e.lineno}: {e.message}') from None
  # Jinja makes a Python program of it, of which Python may refuse the syntax
  # or the nesting; the line is not one of the template.
  except (SyntaxError, RecursionError) as e:
    raise SyntaxProblemError(getattr(e, 'msg', None) or str(e)) from None


def rendered(program: Any, values: Mapping[str, Any]) -> str:
  """The text that a program makes of some values.

  Raises:
    RenderProblemError: it refuses them, or leaves the sandbox.
  """
  try:
    text = program.render(**values)
    text.encode()  # half a surrogate pair is no text
    return text
  except Exception as e:  # noqa: BLE001 (a template may raise anything)
    line = ' '.join(str(e).split()) or type(e).__name__
    raise RenderProblemError(line) from None


class SyntaxProblemError(Exception):
  """What is wrong with the text of a template."""


class RenderProblemError(Exception):
  """Why a template does not take some values."""


def _to_json(x: Any, ensure_ascii: bool = False, **options: Any) -> str:
  """JSON without the HTML escapes that Jinja's own `tojson` adds."""
  return json.dumps(x, ensure_ascii=ensure_ascii, **options)


def _refuse(message: str) -> None:
  import jinja2

  raise jinja2.TemplateError(message)
