"""The section of texts that the trained model wrote."""

from moejax.page import markup
from moejax.page.data import PageData
from moejax.page.markup import Html
from moejax.page.section import Section


def samples(data: PageData) -> Html | None:
  """Each sample, its prompt in bold; None without any."""
  texts = (data.report or {}).get('samples')
  if not texts:
    return None
  return markup.joined(_sample(row['prompt'], row['text']) for row in texts)


def _sample(prompt: str, text: str) -> Html:
  rest = text
  begin = None
  if text.startswith(prompt):
    begin, rest = markup.element('b', prompt), text[len(prompt) :]
  return markup.element('blockquote', begin, rest, class_='sample')


SECTION = Section('Samples', samples, 'a finished run with report.samples')
