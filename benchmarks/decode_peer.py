"""The peer of `benchmarks.decode`: transformers.

PROGRAM is for `python -c`, because it runs in an environment that has no
moejax. Its argument is a folder with task.json. It writes a random OLMoE to the
folder `hf` there and prints a line; then, for each batch size that it reads, it
continues so many prompts and prints a line of JSON with `seconds`, `answers`
(the new ids of each prompt) and `model`, a description with versions.
"""

PROGRAM = """
import json, pathlib, sys, time
import torch, transformers
folder = pathlib.Path(sys.argv[1])
task = json.loads((folder / 'task.json').read_text())
torch.manual_seed(0)
config = transformers.OlmoeConfig(
  vocab_size=8192, hidden_size=256, intermediate_size=128,
  num_hidden_layers=4, num_attention_heads=8, num_key_value_heads=8,
  num_experts=16, num_experts_per_tok=4, max_position_embeddings=2048,
  bos_token_id=None, eos_token_id=None, pad_token_id=None,
  initializer_range=0.1,
)
model = transformers.OlmoeForCausalLM(config).float().eval()
model.save_pretrained(folder / 'hf')
print('{}', flush=True)
what = (
  f'OLMoE of {config.num_hidden_layers} layers of width {config.hidden_size}, '
  f'{config.num_experts} experts of {config.intermediate_size} top-'
  f'{config.num_experts_per_tok}, vocabulary {config.vocab_size}; '
  f'transformers {transformers.__version__}, torch {torch.__version__} with '
  f'{torch.get_num_threads()} threads'
)
for line in sys.stdin:
  prompts = torch.tensor(task['prompts'][:int(line)])
  begin = time.perf_counter()
  with torch.no_grad():
    ids = model.generate(
      prompts, attention_mask=torch.ones_like(prompts), do_sample=False,
      max_new_tokens=task['new'], min_new_tokens=task['new'],
    )
  seconds = time.perf_counter() - begin
  answers = ids[:, prompts.shape[1]:].tolist()
  found = {'seconds': seconds, 'answers': answers, 'model': what}
  print(json.dumps(found), flush=True)
"""
