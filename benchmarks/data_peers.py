"""Peers of `benchmarks.data`: programs that pack the same text elsewhere.

Each is a program for `python -c`, because it may run in another environment
that has no moejax. Its argument is JSON: `lines`, a file with a document in
each line; `model`, a SentencePiece model; `length`, tokens of a row; `folder`,
an empty folder for results. It runs on one core, and prints one line of JSON:
`seconds` from the text to files on disk without imports, `what`, a description
with versions.
"""

from benchmarks.peers import Peer

_ONE_CORE = """
import json, os, sys, time
if hasattr(os, 'sched_setaffinity'):
  os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
os.environ['TF_CPP_MIN_LOG_LEVEL'] = '3'
task = json.loads(sys.argv[1])
"""

# SeqIO's cache command with a runner in this process: its default would first
# try to download another one. It tokenises, and does not pack.
_SEQIO = f"""{_ONE_CORE}
import functools
import apache_beam as beam
import seqio
from absl import flags
from apache_beam.options.pipeline_options import PipelineOptions
from seqio.scripts import cache_tasks_main

vocab = seqio.SentencePieceVocabulary(task['model'])
seqio.TaskRegistry.add(
  'lines',
  source=seqio.TextLineDataSource({{'train': task['lines']}}),
  preprocessors=[
    lambda lines: lines.map(lambda line: {{'targets': line}}),
    functools.partial(seqio.preprocessors.tokenize, copy_pretokenized=False),
    seqio.preprocessors.append_eos,
    seqio.CacheDatasetPlaceholder(),
  ],
  output_features={{'targets': seqio.Feature(vocab, add_eos=True)}},
)
flags.FLAGS(['cache', '--output_cache_dir=' + task['folder']])
runner = 'apache_beam.runners.portability.fn_api_runner.FnApiRunner'
begin = time.perf_counter()
with beam.Pipeline(options=PipelineOptions(['--runner=' + runner])) as pipeline:
  cache_tasks_main.run_pipeline(pipeline, ['lines'], task['folder'])
seconds = time.perf_counter() - begin
what = 'seqio cache tasks, Beam ' + beam.__version__
print(json.dumps({{'seconds': seconds, 'what': what}}))
"""

# Tokens end to end and cut into rows, batch by batch, as the language-modelling
# example of transformers does; the rest of each batch is dropped.
_DATASETS = f"""{_ONE_CORE}
import itertools
import datasets
import sentencepiece

datasets.disable_progress_bars()
model = sentencepiece.SentencePieceProcessor(model_file=task['model'])
length, eos = task['length'], model.eos_id()

def pack(batch):
  ids = model.encode(batch['text'], num_threads=1)
  flat = list(itertools.chain.from_iterable(x + [eos] for x in ids))
  stop = len(flat) // length * length
  return {{'input_ids': [flat[i:i + length] for i in range(0, stop, length)]}}

begin = time.perf_counter()
lines = datasets.load_dataset(
  'text', data_files=task['lines'], split='train', cache_dir=task['folder']
)
rows = lines.map(pack, batched=True, remove_columns=['text'])
seconds = time.perf_counter() - begin
what = 'datasets.map, datasets ' + datasets.__version__
print(json.dumps({{'seconds': seconds, 'what': what}}))
"""

PEERS = {
  'datasets': Peer(('datasets', 'sentencepiece'), _DATASETS),
  'seqio': Peer(('apache_beam', 'seqio'), _SEQIO),
}
