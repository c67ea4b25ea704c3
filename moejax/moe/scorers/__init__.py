"""SCORERS: every scorer by its name in a config.

Scorers own the weights of routing; routers have none.
"""

from moejax.moe.scorers.constant import Constant
from moejax.moe.scorers.cosine import Cosine, PerturbedCosine
from moejax.moe.scorers.expert_norm import ExpertNorm
from moejax.moe.scorers.hyper import Hyper
from moejax.moe.scorers.laplace import Laplace
from moejax.moe.scorers.linear import Linear
from moejax.moe.scorers.mlp import Mlp
from moejax.moe.scorers.token_embedding import TokenEmbedding

SCORERS = {
  'constant': Constant,
  'cosine': Cosine,
  'expert_norm': ExpertNorm,
  'hyper': Hyper,
  'laplace': Laplace,
  'linear': Linear,
  'mlp': Mlp,
  'perturbed_cosine': PerturbedCosine,
  'token_embedding': TokenEmbedding,
}
