"""The harness's requests reach the engine as what they mean."""

import sys
import types

import pytest
from etils import epath

from moejax.cli import lm_eval
from moejax.convert import chat
from moejax.core import errors, exits
from moejax.data.vocab import Bytes
from moejax.evals import harness
from moejax.evals.benchmark import Likelihood
from moejax.evals.sampling import Sampling
from moejax.run import harness as run_harness

TEMPLATE = (
  "{% for m in messages %}[{{ m['role'] }}]{{ m['content'] }}[end]"
  '{% endfor %}{% if add_generation_prompt %}[assistant]{% endif %}'
)


class Engine:
  """Answers by the length of a text, and writes down what is generated."""

  vocab = Bytes()

  def __init__(self):
    self.generated = []

  def likelihoods(self, pairs):
    return [Likelihood(-len(b), len(b) > 2, len(b)) for _, b in pairs]

  def rolling(self, texts):
    return [Likelihood(-2 * len(text), False, len(text)) for text in texts]

  def generate(self, prompts, sampling, seed):
    self.generated.append((prompts, sampling, seed))
    return [prompt.text.upper() for prompt in prompts]


@pytest.fixture
def model():
  made = harness.Harness()
  made.engine = Engine()
  made.name = 'runs/a'
  made.hf_folder = None
  return made


def requests(*args):
  return [types.SimpleNamespace(args=a) for a in args]


def test_requests_of_each_kind_are_answered_in_order(model):
  kept = []
  model.set_cache_hook(
    types.SimpleNamespace(add_partial=lambda *words: kept.append(words))
  )
  asked = requests(('a', ' b'), ('a', ' cd'))
  assert model.loglikelihood(asked) == [(-2, False), (-3, True)]
  assert model.loglikelihood_rolling(requests(('abc',), ('d',))) == [-6, -2]
  # The harness keeps each answer for --use_cache.
  assert kept[1] == ('loglikelihood', ('a', ' cd'), (-3, True))
  assert len(kept) == 4


def test_prompts_that_are_drawn_differently_are_generated_apart(model):
  greedy, drawn = {'until': ['.']}, {'temperature': 0.5, 'seed': 3}
  asked = requests(('a', greedy), ('b', drawn), ('c', greedy))
  assert model.generate_until(asked) == ['A', 'B', 'C']
  (first, second) = model.engine.generated
  assert [prompt.text for prompt in first[0]] == ['a', 'c']
  assert first[1:] == (Sampling(), 0)
  assert second[1:] == (Sampling(temperature=0.5), 3)


def test_stop_strings_and_limits_have_the_harness_s_meaning():
  prompt = harness.prompt_of('x', {'until': 'Q:'})
  assert prompt.stops == ('Q:',)
  assert prompt.max_tokens == 256
  # In the harness, an empty stop string stops nothing.
  settings = {'until': ['', 'Q:'], 'max_tokens': 7, 'max_gen_toks': 5}
  prompt = harness.prompt_of('x', settings)
  assert prompt.stops == ('Q:',)
  assert prompt.max_tokens == 5
  with pytest.raises(errors.InputError, match='num_beams=4'):
    harness.prompt_of('x', {'num_beams': 4})


@pytest.mark.parametrize(
  ('settings', 'temperature'),
  [
    ({}, 0),
    ({'temperature': 0.0}, 0),
    ({'temperature': 0.8}, 0.8),
    ({'temperature': 0.8, 'do_sample': False}, 0),
    ({'do_sample': True}, 1.0),
  ],
)
def test_tokens_are_drawn_if_the_request_says_so(settings, temperature):
  assert harness.sampling_of(settings).temperature == temperature


def test_a_chat_ends_with_an_open_turn(model, tmp_path):
  (tmp_path / 'chat_template.jinja').write_text(TEMPLATE)
  model.hf_folder = epath.Path(tmp_path)
  user = {'role': 'user', 'content': 'Hi'}
  own = {'role': 'assistant', 'content': 'The answer is'}
  assert model.apply_chat_template([user]) == '[user]Hi[end][assistant]'
  assert (
    model.apply_chat_template([user, own], add_generation_prompt=False)
    == '[user]Hi[end][assistant]The answer is'
  )
  assert model.chat_template(True) == TEMPLATE
  assert model.chat_template(False) is None
  with pytest.raises(errors.InputError, match='leave the name out'):
    model.chat_template('tools')


def test_a_last_message_that_a_template_leaves_out_is_an_error(tmp_path):
  (tmp_path / 'chat_template.jinja').write_text('nothing')
  with pytest.raises(errors.InputError, match='leaves out the last message'):
    chat.render(
      epath.Path(tmp_path),
      [{'role': 'user', 'content': 'Hi'}],
      add_generation_prompt=False,
    )


def test_a_model_without_a_template_says_so(model):
  with pytest.raises(errors.InputError, match='runs/a has no chat template'):
    model.apply_chat_template([])


def test_the_name_of_the_vocabulary_can_be_a_file_name(model):
  assert model.tokenizer_name == 'moejax_bytes_3'


@pytest.mark.parametrize(
  ('arguments', 'message'),
  [
    ({}, 'name no run'),
    ({'workdr': 'a'}, "unknown model argument 'workdr'.*'workdir'"),
    ({'workdir': 'no/such'}, 'no/such'),
  ],
)
def test_model_arguments_that_are_wrong(arguments, message, model):
  with pytest.raises(errors.InputError, match=message):
    run_harness.open_harness(model, arguments)


def test_a_batch_size_is_a_number_of_texts():
  assert run_harness._batch_rows(1) == 32
  assert run_harness._batch_rows('auto:4') == 32
  assert run_harness._batch_rows(8) == 8
  with pytest.raises(errors.InputError, match='--batch_size many must be'):
    run_harness._batch_rows('many')


def test_without_lm_eval_the_command_says_what_to_install(monkeypatch, capsys):
  run_harness.model_class.cache_clear()
  for name in ('lm_eval', 'lm_eval.api', 'lm_eval.api.model'):
    monkeypatch.setitem(sys.modules, name, None)
  assert exits.call(lm_eval.main, []) == exits.BAD_INPUT
  assert "pip install 'lm_eval>=0.4.13'" in capsys.readouterr().err


def test_the_entry_point_is_the_class(monkeypatch):
  run_harness.model_class.cache_clear()
  api = types.ModuleType('lm_eval.api.model')
  api.LM = type('LM', (), {'__init__': lambda self: None})
  monkeypatch.setitem(sys.modules, 'lm_eval', types.ModuleType('lm_eval'))
  monkeypatch.setitem(sys.modules, 'lm_eval.api', types.ModuleType('api'))
  monkeypatch.setitem(sys.modules, 'lm_eval.api.model', api)
  try:
    assert issubclass(run_harness.MoejaxLM, api.LM)
    assert issubclass(run_harness.MoejaxLM, harness.Harness)
    with pytest.raises(errors.InputError, match='name no run'):
      run_harness.MoejaxLM(batch_size=1, device='cpu')
  finally:
    run_harness.model_class.cache_clear()
