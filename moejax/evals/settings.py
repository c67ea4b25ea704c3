"""The default sampling of a model, from its generation_config.json."""

from typing import Any

from etils import epath

from moejax.convert import companions
from moejax.core import errors
from moejax.evals.sampling import USUAL, Sampling

# Defaults of transformers where generation_config.json says `do_sample`.
THEIRS = {'temperature': 1.0, 'top_p': 1.0, 'top_k': 50}
# Settings that are not supported here, with the values that change nothing.
OTHERS = {
  'repetition_penalty': 1.0,
  'encoder_repetition_penalty': 1.0,
  'no_repeat_ngram_size': 0,
  'min_p': 0.0,
  'typical_p': 1.0,
  'epsilon_cutoff': 0.0,
  'eta_cutoff': 0.0,
  'num_beams': 1,
  'penalty_alpha': 0.0,
  'bad_words_ids': None,
  'suppress_tokens': None,
  'begin_suppress_tokens': None,
  'forced_bos_token_id': None,
  'forced_eos_token_id': None,
}


def usual(place: epath.Path | None) -> Sampling:
  """The sampling of a folder's generation_config.json, or that of reports.

  Example:
    {"do_sample": true, "temperature": 0.6}  temperature 0.6, top_k 50
    {"do_sample": false}                     greedy
    {"eos_token_id": 2}                      as in reports

  Raises:
    InputError: a setting is out of its bounds.
  """
  config = _read(place)
  if config.get('do_sample') is False:
    return Sampling()
  named = {k: config[k] for k in THEIRS if config.get(k) is not None}
  if not named and not config.get('do_sample'):
    return USUAL
  try:
    return Sampling(**{**THEIRS, **named})
  except (errors.InputError, TypeError) as e:
    file = (
      companions.GENERATION if place is None else place / companions.GENERATION
    )
    raise errors.InputError(f'{file}: {e}') from None


def _read(place: epath.Path | None) -> dict[str, Any]:
  return {} if place is None else companions.read(place / companions.GENERATION)


def ignored(place: epath.Path | None) -> dict[str, object]:
  """Settings of generation_config.json that are not supported, if they matter.

  A setting matters if its value would change a text.
  """
  config = _read(place)
  return {
    key: config[key]
    for key, neutral in OTHERS.items()
    if config.get(key) not in (None, neutral)
  }
