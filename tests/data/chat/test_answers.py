"""Where answers are in the text of a conversation, by template."""

import itertools
import json

import pytest
from etils import epath

from moejax.core import errors
from moejax.data import vocab
from moejax.data.chat import Chat, answers, messages, templates, tokens

ASK = lambda text: {'role': 'user', 'content': text}
SAY = lambda text: {'role': 'assistant', 'content': text}
TOLD = {'role': 'system', 'content': 'Be brief.'}
TURNS = [TOLD, ASK('Is 2 even?'), SAY('Yes.'), ASK('And 3?'), SAY('No,\nodd.')]
# What each built-in template makes of `TURNS`, with answers between brackets.
BY_HAND = {
  'chatml': (
    '<|im_start|>system\nBe brief.<|im_end|>\n'
    '<|im_start|>user\nIs 2 even?<|im_end|>\n'
    '<|im_start|>assistant\n[Yes.<|im_end|>]\n'
    '<|im_start|>user\nAnd 3?<|im_end|>\n'
    '<|im_start|>assistant\n[No,\nodd.<|im_end|>]\n'
  ),
  'deepseek': (
    '<s>Be brief.\n\nUser: Is 2 even?\n\nAssistant:[ Yes.</s>]'
    'User: And 3?\n\nAssistant:[ No,\nodd.</s>]'
  ),
  'llama_2': (
    '<s>[INST] <<SYS>>\nBe brief.\n<</SYS>>\n\nIs 2 even? [/INST][ Yes. </s>]'
    '<s>[INST] And 3? [/INST][ No,\nodd. </s>]'
  )
  .replace('[INST]', '(INST)')
  .replace('[/INST]', '(/INST)'),
  'vicuna': (
    '<s>Be brief. USER: Is 2 even? ASSISTANT:[ Yes.</s>]'
    'USER: And 3? ASSISTANT:[ No,\nodd.</s>]'
  ),
}
# Templates as models have them, without {% generation %}.
REASONING = (
  '{% for m in messages %}<{{ m.role }}>'
  "{% if m.role == 'assistant' and not loop.last %}"
  "{{ m.content.split('</think>')[-1] }}"
  '{% else %}{{ m.content }}{% endif %}<end>\n{% endfor %}'
  '{% if add_generation_prompt %}<assistant>{% endif %}'
)


def template(text, **tokens):
  return templates.Template(text, 'the test', tokens)


def built_in(name):
  text = templates.BUILT_IN[name].read_text()
  return template(text, bos_token='<s>', eos_token='</s>')


def conversation(turns):
  return messages.Conversation('a:1', tuple(turns))


def bracketed(marked):
  """The text with its answers between brackets."""
  text = marked.text
  for start, end in reversed(marked.spans):
    text = f'{text[:start]}[{text[start:end]}]{text[end:]}'
  return text


def unmarked(name):
  """A built-in template without {% generation %}."""
  text = templates.BUILT_IN[name].read_text()
  for tag in ('generation', 'endgeneration'):
    text = text.replace('{%- ' + tag + ' -%}', '')
  assert 'generation %' not in text
  return template(text, bos_token='<s>', eos_token='</s>')


def test_every_built_in_template_has_a_text_by_hand():
  assert {*BY_HAND} == {*templates.BUILT_IN}


@pytest.mark.parametrize('name', [*BY_HAND])
def test_built_in_templates_by_hand(name):
  found = answers.find(built_in(name), conversation(TURNS), 'all_answers')
  text = bracketed(found).replace('[INST]', '(INST)')
  assert text.replace('[/INST]', '(/INST)') == BY_HAND[name]


@pytest.mark.parametrize('name', [*BY_HAND])
def test_prefixes_find_what_generation_blocks_mark(name):
  both = [
    answers.find(make(name), conversation(TURNS), 'all_answers')
    for make in (built_in, unmarked)
  ]
  assert both[0] == both[1]


@pytest.mark.parametrize('name', [*BY_HAND])
def test_a_prompt_ends_where_the_answer_begins(name):
  whole = answers.find(built_in(name), conversation(TURNS), 'all_answers')
  for at, (start, _) in zip((2, 4), whole.spans, strict=True):
    asked = built_in(name).render(TURNS[:at], add_generation_prompt=True)
    assert asked.text == whole.text[:start]


def test_an_answer_that_the_template_shortens_later_is_refused():
  turns = [ASK('a'), SAY('1</think>x'), ASK('b'), SAY('2</think>y')]
  own = template(REASONING)
  with pytest.raises(messages.ProblemError, match='shows answer 1 otherwise'):
    answers.find(own, conversation(turns), 'all_answers')
  found = answers.find(own, conversation(turns), 'last_answer')
  assert found.spans[0] is None
  start, end = found.spans[1]
  assert found.text[start:end] == '2</think>y<end>'


def test_marks_inside_loops_and_variables_are_where_the_text_is():
  own = template(
    '{% macro said(m) %}{% generation %}{{ m.content }}!{% endgeneration %}'
    '{% endmacro %}{% for m in messages %}{% set n = loop.index %}'
    "{% if m.role == 'assistant' %}{{ n }}{{ said(m) }}\n"
    '{% else %}{{ m.content }} {% endif %}{% endfor %}'
  )
  found = answers.find(
    own, conversation([ASK('a'), SAY('b'), ASK('c'), SAY('d')]), 'all_answers'
  )
  assert bracketed(found) == 'a 2[b!]\nc 4[d!]\n'


def test_templates_that_refuse_or_mark_nothing():
  nothing = template(
    '{% if x %}{% generation %}a{% endgeneration %}{% endif %}'
  )
  with pytest.raises(messages.ProblemError, match='marks no answer'):
    answers.find(nothing, conversation([ASK('a'), SAY('b')]), 'all_answers')
  tool = [ASK('a'), {'role': 'tool', 'content': '1'}, SAY('b')]
  for name in ('deepseek', 'llama_2', 'vicuna'):
    with pytest.raises(messages.ProblemError, match='it has no role tool'):
      answers.find(built_in(name), conversation(tool), 'all_answers')
  with pytest.raises(errors.InputError, match='not a Jinja template: line 2'):
    template('{{ a }}\n{% if %}').render([ASK('a')])


# Jinja takes them, and Python does not take the programs that it makes of them.
@pytest.mark.parametrize(
  'text',
  [
    '{% break %}',
    '{{ namespace(a=1, a=2) }}',
    '{% for m in messages %}' * 25 + '{% endfor %}' * 25,
    '{{ ' + '(' * 3000 + '1' + ')' * 3000 + ' }}',
  ],
)
def test_programs_that_python_refuses_are_no_templates(text):
  with pytest.raises(errors.InputError, match='the test is not a Jinja templ'):
    template(text).render([ASK('a')])


@pytest.mark.parametrize('text', ['{{ cycler() }}', '{{ messages[0].more }}'])
def test_whatever_a_template_raises_is_a_problem_of_the_conversation(text):
  said = {**ASK('a'), 'more': '\ud800'}
  with pytest.raises(messages.ProblemError, match='does not take it'):
    template(text).render([said])


def test_a_template_of_lists_of_parts_leaves_no_empty_answers():
  own = template(
    "{% for m in messages %}<{{ m.role }}>{% for part in m['content'] | "
    "selectattr('type', 'equalto', 'text') %}{{ part['text'] }}{% endfor %}"
    '<end>{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}'
  )
  asked = conversation([ASK('a'), SAY('b')])
  with pytest.raises(messages.ProblemError, match='the test leaves out what a'):
    answers.find(own, asked, 'all_answers')
  chat = tokens.ChatVocab(vocab.Bytes(), Chat(), kept=own)
  with pytest.raises(messages.ProblemError, match='leaves out what users say'):
    chat.prompt([ASK('a')])
  # They write them in another case, or with other spaces.
  for change in ('upper', "replace(' ', '_')"):
    text = '{% for m in messages %}{{ m.content | ' + change + ' }}{% endfor %}'
    assert answers.find(template(text), asked, 'all_answers').spans == [(1, 2)]


def test_the_template_that_a_config_names(tmp_path):
  ours = vocab.Bytes()
  key = 'data.chat.template'
  with pytest.raises(errors.InputError, match='no chat template beside it'):
    templates.find('', ours, key)
  with pytest.raises(errors.InputError, match="='chat_ml' is neither a file"):
    templates.find('chat_ml', ours, key)
  assert templates.find('vicuna', ours, key).tokens == {'eos_token': '</s>'}
  file = tmp_path / 'own.jinja'
  file.write_text('{{ messages }}')
  assert templates.find(str(file), ours, key).text == '{{ messages }}'
  file.write_bytes(b'\xff')
  with pytest.raises(errors.InputError, match='cannot be read'):
    templates.find(str(file), ours, key)
  assert templates.of_folder(epath.Path(tmp_path)) is None
  listed = {'chat_template': ['a', {'name': 'default', 'template': 'b'}]}
  (tmp_path / templates.SETTINGS).write_text(json.dumps(listed))
  assert templates.of_folder(epath.Path(tmp_path)) == 'b'
  (tmp_path / templates.FILE).write_bytes(b'\xff')
  with pytest.raises(errors.InputError, match='chat_template.jinja cannot be'):
    templates.of_folder(epath.Path(tmp_path))


def test_all_answers_of_many_lengths_are_found():
  texts = ['x', ' two words ', 'a\n\nb', 'é漢🙂']
  for first, second in itertools.permutations(texts, 2):
    turns = [ASK(first), SAY(second), ASK(second), SAY(first)]
    found = answers.find(built_in('chatml'), conversation(turns), 'all_answers')
    assert [found.text[a:b] for a, b in found.spans] == [
      f'{second}<|im_end|>',
      f'{first}<|im_end|>',
    ]
