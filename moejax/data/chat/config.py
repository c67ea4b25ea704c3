"""The config of conversations: their template, and what is trained on."""

import dataclasses

from moejax.core import fields
from moejax.data.chat import answers


@dataclasses.dataclass(frozen=True)
class Chat(fields.Checked):
  """How conversations become rows.

  Attributes:
    template: the name of a built-in template, or the path of a Jinja file
      (.jinja); '' for the template in the folder of the tokenizer.
    loss: which answers are targets: an entry of LOSSES.
  """

  template: str = ''
  loss: str = fields.named(answers.LOSSES, 'all_answers')
