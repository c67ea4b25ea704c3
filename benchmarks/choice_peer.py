"""The peer of `benchmarks.choice`: lm-evaluation-harness with transformers.

PROGRAM is for `python -c`, because it runs in an environment that has no
moejax. Its argument is a folder with pairs.json and text.json. It writes a
random OLMoE with a tokenizer to the folder `hf` there and prints a line; then,
for each batch size that it reads, it scores the pairs and prints a line of JSON
with `seconds`, `answers` and `model`, a description with versions.
"""

PROGRAM = """
import json, pathlib, sys, time
import lm_eval, tokenizers, torch, transformers
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM
folder = pathlib.Path(sys.argv[1])
inner = tokenizers.ByteLevelBPETokenizer()
inner.train_from_iterator(
  [json.loads((folder / 'text.json').read_text())], vocab_size=8192,
  special_tokens=['<|endoftext|>'], show_progress=False,
)
tokenizer = transformers.PreTrainedTokenizerFast(
  tokenizer_object=inner._tokenizer, eos_token='<|endoftext|>'
)
tokenizer.save_pretrained(folder / 'hf')
torch.manual_seed(0)
config = transformers.OlmoeConfig(
  vocab_size=len(tokenizer), hidden_size=256, intermediate_size=128,
  num_hidden_layers=4, num_attention_heads=8, num_key_value_heads=8,
  num_experts=16, num_experts_per_tok=4, max_position_embeddings=2048,
  eos_token_id=0, pad_token_id=None, initializer_range=0.1,
)
transformers.OlmoeForCausalLM(config).float().save_pretrained(folder / 'hf')
print('{}', flush=True)
lm = HFLM(pretrained=str(folder / 'hf'), dtype='float32', device='cpu')
pairs = json.loads((folder / 'pairs.json').read_text())
requests = [
  Instance('loglikelihood', {}, tuple(pair), i) for i, pair in enumerate(pairs)
]
model = (
  f'OLMoE of {config.num_hidden_layers} layers of width {config.hidden_size}, '
  f'{config.num_experts} experts of {config.intermediate_size} top-'
  f'{config.num_experts_per_tok}, vocabulary {config.vocab_size}; lm_eval '
  f'{lm_eval.__version__}, transformers {transformers.__version__}, torch '
  f'{torch.__version__} with {torch.get_num_threads()} threads'
)
for line in sys.stdin:
  lm.batch_size_per_gpu = int(line)
  begin = time.perf_counter()
  answers = lm.loglikelihood(requests, disable_tqdm=True)
  seconds = time.perf_counter() - begin
  answers = [nats for nats, _ in answers]
  found = {'seconds': seconds, 'answers': answers, 'model': model}
  print(json.dumps(found), flush=True)
"""
