"""Sampling as generation_config.json says, or as in reports."""

import json

import pytest
from etils import epath

from moejax.core import errors
from moejax.evals import settings
from moejax.evals.sampling import USUAL, Sampling


@pytest.mark.parametrize(
  ('said', 'want'),
  [
    (None, USUAL),
    ({}, USUAL),
    ({'eos_token_id': 2}, USUAL),
    ({'do_sample': False}, Sampling()),
    ({'do_sample': False, 'temperature': 0.6}, Sampling()),
    # As transformers: 1, 1 and 50 for what is not said.
    ({'do_sample': True}, Sampling(1.0, 1.0, 50)),
    ({'do_sample': True, 'temperature': 0.6}, Sampling(0.6, 1.0, 50)),
    ({'do_sample': True, 'top_k': 0, 'top_p': None}, Sampling(1.0, 1.0, 0)),
    ({'temperature': 0.6, 'top_p': 0.9, 'top_k': 20}, Sampling(0.6, 0.9, 20)),
  ],
)
def test_what_a_model_says_of_itself(said, want, tmp_path):
  if said is not None:
    (tmp_path / 'generation_config.json').write_text(json.dumps(said))
  assert settings.usual(epath.Path(tmp_path)) == want
  assert settings.usual(None) == USUAL


@pytest.mark.parametrize('said', [{'top_p': 7}, {'temperature': 'hot'}])
def test_settings_out_of_bounds_are_one_line(said, tmp_path):
  (tmp_path / 'generation_config.json').write_text(json.dumps(said))
  with pytest.raises(errors.InputError, match='generation_config.json: '):
    settings.usual(epath.Path(tmp_path))


def test_settings_that_are_not_obeyed_are_named(tmp_path):
  said = {
    'repetition_penalty': 1.05,
    'num_beams': 1,
    'min_p': None,
    'suppress_tokens': [3],
    'temperature': 0.6,
  }
  (tmp_path / 'generation_config.json').write_text(json.dumps(said))
  assert settings.ignored(epath.Path(tmp_path)) == {
    'repetition_penalty': 1.05,
    'suppress_tokens': [3],
  }
  assert settings.ignored(None) == {}
