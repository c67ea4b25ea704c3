"""Benchmarks for tiny models, made from the validation text of the minipile.

They need no network, and no item is in the training text. Each asks in the form
in which the training text is written, so that a model of a few million weights
learns it within minutes:

  task                  asks                                        chance
  offline_cloze         which of four words ends a passage          25%
  offline_continuation  which of four orders of the next words is   25%
                        the true one
  offline_gloss         which of four ends completes a gloss of     25%
                        the dictionary
  offline_grammar       which of two sentences is unchanged         50%

The items are drawn from the text by hashes of their own text, so they are the
same everywhere, and do not move when others are added or removed.
"""

import dataclasses
import functools
import hashlib
import random
import re
from collections.abc import Callable, Iterator, Sequence

from moejax.data.tasks import Minipile
from moejax.evals.benchmark import Benchmark, Choice, Dataset, Row

# Domains of running text, and all of them.
PROSE = ('factbook', 'scripture', 'speeches')
DOMAINS = (*PROSE, 'code', 'dictionary')
# Items of each domain, or of each phenomenon of grammar.
PER_GROUP = 30
OPTIONS = 4
# Words of a gloss that is asked, at least, and of its end.
GLOSS_WORDS, END_WORDS = 8, 4
# Words of a passage, and of the continuation that is asked.
CONTEXT_WORDS, NEXT_WORDS = 32, 10


@functools.cache
def _documents(domain: str) -> tuple[str, ...]:
  """The validation documents of a domain."""
  return tuple(map(str, Minipile(f'minipile_{domain}').texts('validation')))


def _rank(text: str) -> str:
  """A key that puts texts into an order that looks random."""
  return hashlib.sha256(text.encode()).hexdigest()


def _some(rows: Sequence[Row], count: int) -> list[Row]:
  """So many of the rows, in an order that their own text decides."""
  return sorted(rows, key=lambda row: _rank(repr(row)))[:count]


def _shuffled(pieces: Sequence[str], key: str) -> list[str]:
  """The pieces in an order drawn by `key` that differs from theirs."""
  order = [*pieces]
  stream = random.Random(key)
  while order == [*pieces]:
    # `shuffle` may change with Python's version; `random` may not.
    order = sorted(order, key=lambda _: stream.random())
  return order


# The last word of a passage


def _sentences(domain: str) -> Iterator[tuple[str, str]]:
  """(text before, sentence) of a domain's prose, in order."""
  for document in _documents(domain):
    for match in re.finditer(r'[A-Z][^.!?\n]{40,240}[.!?](?=\s)', document):
      yield document[: match.start()], match.group()


def _last_words(text: str, count: int) -> str:
  """The end of a text, from the beginning of its last `count` words on."""
  words = [*re.finditer(r'\S+', text)]
  return text[words[-count].start() :] if len(words) >= count else text


def cloze_rows(split: str) -> list[Row]:
  """Passages of prose without their last word, of four letters or more.

  Each has the last words of three other passages, of the other domains.
  """
  del split
  by_domain: dict[str, list[Row]] = {}
  for domain in PROSE:
    passages: list[Row] = []
    for before, sentence in _sentences(domain):
      match = re.fullmatch(r'(.*\w,?)( [a-z]{4,})[.!?]', sentence)
      if match:
        context = _last_words(before + match[1], CONTEXT_WORDS)
        passages.append({
          'context': context,
          'word': match[2],
          'domain': domain,
        })
    by_domain[domain] = _some(passages, PER_GROUP)
  rows: list[Row] = []
  for domain, passages in by_domain.items():
    words = [row['word'] for d in PROSE if d != domain for row in by_domain[d]]
    for row in passages:
      others = sorted(
        {*words} - {row['word']}, key=lambda w: _rank(w + row['context'])
      )
      rows.append({**row, 'others': others[: OPTIONS - 1]})
  return rows


def cloze(row: Row) -> Choice:
  """The passage, then its last word or those of three other passages."""
  return _choice(row['context'], row['word'], row['others'], row['domain'])


# True against shuffled continuation


def continuation_rows(split: str) -> list[Row]:
  """Passages, each with the words that follow it, and orders of these words.

  All options have the same words, so no word gives the answer away.
  """
  del split
  rows: list[Row] = []
  for domain in DOMAINS:
    passages: list[Row] = []
    for document in _documents(domain):
      # Words with the white space before them, so that code keeps its lines.
      words = re.findall(r'\s*\S+', document)
      length = CONTEXT_WORDS + NEXT_WORDS
      for at in range(0, len(words) - length, length):
        context = ''.join(words[at : at + CONTEXT_WORDS]).lstrip()
        true = words[at + CONTEXT_WORDS : at + length]
        if len(set(true)) > NEXT_WORDS // 2:
          passages.append({'context': context, 'words': true, 'domain': domain})
    rows += _some(passages, PER_GROUP)
  return rows


def continuation(row: Row) -> Choice:
  """The passage with the true order of the next words and three others."""
  others = [
    ''.join(_shuffled(row['words'], f'{i} {row["context"]}'))
    for i in range(1, OPTIONS)
  ]
  return _choice(row['context'], ''.join(row['words']), others, row['domain'])


def _choice(
  context: str, right: str, wrong: Sequence[str], group: str
) -> Choice:
  """A choice whose options are in the order of their hashes."""
  options = sorted([right, *wrong], key=_rank)
  return Choice(
    (context,) * len(options),
    tuple(options),
    options.index(right),
    group=group,
  )


# The end of a gloss


# What the entries of each validation document of the dictionary are.
KINDS = (
  'verb',
  'person',
  'adjective',
  'person',
  'thing',
  'verb',
  'adjective',
  'thing',
  'verb',
)


# Lower-case words alone, so that ends differ by nothing but their words.
_END = rf'((?: [a-z]+){{{END_WORDS}}})'


def _glosses() -> Iterator[Row]:
  """The entries of the dictionary with a long gloss, without its end.

  Example:
    'canyon, canon: a ravine formed by a river in an area with little rainfall'
    'canyon, canon: a ravine formed by a river in an' and
    ' area with little rainfall', of the kind 'thing'
  """
  for kind, document in zip(KINDS, _documents('dictionary'), strict=True):
    for line in document.splitlines():
      match = re.fullmatch(rf'([^:]+: )([^;"():]*?){_END}(;.*)?', line)
      if match and len(match[2].split()) >= GLOSS_WORDS - END_WORDS:
        yield {'start': match[1] + match[2], 'end': match[3], 'kind': kind}


def gloss_rows(split: str) -> list[Row]:
  """Entries of the dictionary without the end of their gloss, and four ends.

  The others are the ends of sentences, one of each domain of prose.
  """
  del split
  ends = {
    domain: [
      match[1]
      for _, sentence in _sentences(domain)
      if (match := re.search(rf'{_END}[.!?]$', sentence))
    ]
    for domain in PROSE
  }
  rows: list[Row] = []
  for kind in sorted({*KINDS}):
    own = _some([row for row in _glosses() if row['kind'] == kind], PER_GROUP)
    for row in own:
      key = lambda end, row=row: _rank(row['start'] + end)
      others = [min(ends[domain], key=key) for domain in PROSE]
      rows.append({**row, 'others': others})
  return rows


def gloss(row: Row) -> Choice:
  """The word and its gloss, then its last words or those of three sentences.

  They are compared by how much more probable they are here than at the
  beginning of a text, since some words are rare in all texts.
  """
  item = _choice(row['start'], row['end'], row['others'], row['kind'])
  return dataclasses.replace(item, unconditional='')


# Minimal pairs of grammar


def _exchange(*pairs: tuple[str, str]) -> Callable[[str], str | None]:
  """A change of the first word of a sentence that is in one of the pairs."""
  other = dict(pairs) | {b: a for a, b in pairs}
  pattern = re.compile(rf'(?<=[\w,] )({"|".join(other)})(?= )')

  def change(sentence: str) -> str | None:
    return (
      pattern.sub(lambda m: other[m[1]], sentence, count=1)
      if pattern.search(sentence)
      else None
    )

  return change


def _rewrite(
  pattern: str, text: str | Callable[[re.Match[str]], str]
) -> Callable[[str], str | None]:
  """A change of the first match of a pattern."""
  compiled = re.compile(pattern)

  def change(sentence: str) -> str | None:
    changed = compiled.sub(text, sentence, count=1)
    return None if changed == sentence else changed

  return change


# By phenomenon, how a sentence is made wrong; None where it does not apply.
GRAMMAR: dict[str, Callable[[str], str | None]] = {
  'agreement': _exchange(('is', 'are'), ('was', 'were'), ('has', 'have')),
  'pronoun': _rewrite(
    r'(?<= )(of|to|unto|upon|with|for|by) (him|them|me|us)(?=[ ,])',
    lambda m: f'{m[1]} {dict(him="he", them="they", me="I", us="we")[m[2]]}',
  ),
  'verb_form': _rewrite(
    r'(?<= )(will|shall|must|may|can|should|would) (be|have)(?= )',
    lambda m: f'{m[1]} {dict(be="been", have="having")[m[2]]}',
  ),
  'word_order': _rewrite(r'(?<=[a-z] )(the|a|an|this|our) ([a-z]+)', r'\2 \1'),
}


def grammar_rows(split: str) -> list[Row]:
  """Sentences of prose, each with a form that breaks a rule of grammar."""
  del split
  sentences = [s for domain in PROSE for _, s in _sentences(domain)]
  rows: list[Row] = []
  for name, change in GRAMMAR.items():
    changed = [(s, change(s)) for s in sentences]
    pairs: list[Row] = [
      {'good': good, 'bad': bad, 'phenomenon': name}
      for good, bad in changed
      if bad is not None
    ]
    rows += _some(pairs, PER_GROUP)
  return rows


def grammar(row: Row) -> Choice:
  """Both sentences, each whole and after nothing."""
  return _choice('', row['good'], [row['bad']], row['phenomenon'])


def _benchmark(
  rows: Callable[[str], list[Row]],
  item: Callable[[Row], Choice],
  chance: int,
  metric: str = 'acc',
  **columns: type,
) -> Benchmark:
  """A benchmark of the shipped text; `chance` in percent."""
  dataset = Dataset('', '', 'validation', columns, rows=functools.cache(rows))
  return Benchmark(dataset, item, metric, note=f'by chance {chance}%')


OFFLINE: dict[str, Benchmark] = {
  'offline_cloze': _benchmark(
    cloze_rows, cloze, 25, context=str, word=str, others=list, domain=str
  ),
  'offline_continuation': _benchmark(
    continuation_rows, continuation, 25, context=str, words=list, domain=str
  ),
  'offline_gloss': _benchmark(
    gloss_rows,
    gloss,
    25,
    'acc_mutual',
    start=str,
    end=str,
    others=list,
    kind=str,
  ),
  'offline_grammar': _benchmark(
    grammar_rows, grammar, 50, good=str, bad=str, phenomenon=str
  ),
}
