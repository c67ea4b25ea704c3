"""Renders chat messages as a prompt, with the chat template of a model."""

from collections.abc import Sequence

from etils import epath

from moejax.core import errors
from moejax.data.chat import templates
from moejax.data.chat.messages import ProblemError

Message = dict[str, str]


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
  own = templates.Template(
    text,
    f'the chat template in {errors.shown(place)}',
    templates.special_tokens(place),
  )
  try:
    prompt = own.render(
      messages, add_generation_prompt=add_generation_prompt
    ).text
    if add_generation_prompt and 'user' in own.unwritten:
      raise ProblemError(
        'it leaves out what users say (it may read lists of parts alone)'
      )
  except (ProblemError, errors.InputError) as e:
    reason = str(e).removeprefix('the chat template does not take it: ')
    raise errors.InputError(
      f"the model's chat template does not take this chat: {reason}"
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


# The template of a folder; None if it has none.
template = templates.of_folder
