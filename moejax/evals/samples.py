"""An evaluation that shows continuations of a few prompts."""

from moejax.convert import companions
from moejax.evals import generate, settings
from moejax.evals.subject import Subject

PROMPTS = ('In the beginning', 'The United States', 'def main(')
NEW_TOKENS = 60


def samples(subject: Subject) -> dict[str, dict[str, str]]:
  """By prompt, `text`: the prompt with its continuation.

  There are no rows for made-up rows of ids, or if prompts are too long.

  Tokens are drawn as `moejax generate` draws them.
  """
  vocab = subject.data.vocab
  if vocab is None:
    return {}
  prompts = [vocab.encode(text) for text in PROMPTS]
  # Positions beyond the length of the rows were not trained.
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
