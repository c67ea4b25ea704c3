"""Continuations of a few prompts, as a glance at what a model writes."""

from moejax.convert import companions
from moejax.evals import generate, settings
from moejax.evals.subject import Subject

PROMPTS = ('In the beginning', 'The United States', 'def main(')
NEW_TOKENS = 60


def samples(subject: Subject) -> dict[str, dict[str, str]]:
  """The text of each prompt with its continuation; no rows without text.

  Tokens are drawn as `moejax.cli.generate` draws them.
  """
  vocab = subject.data.vocab
  if vocab is None:
    return {}
  prompts = [vocab.encode(text) for text in PROMPTS]
  # A model has learned nothing of positions beyond the length of its rows.
  longest = max(map(len, prompts)) + len(vocab.start)
  tokens = min(NEW_TOKENS, subject.data.length - longest)
  if tokens < 1:
    return {}
  new = generate.generate(
    subject.model,
    subject.weights,
    prompts,
    settings.usual(subject.hf_folder),
    max_new_tokens=tokens,
    end_ids=companions.end_ids(subject.hf_folder, vocab),
    seed=subject.seed,
    start=vocab.start,
  )
  return {
    prompt: {'text': vocab.decode([*ids, *continuation])}
    for prompt, ids, continuation in zip(PROMPTS, prompts, new, strict=True)
  }
