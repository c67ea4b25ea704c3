"""Which weights decay: said here once more, by what each is."""

import functools
import pathlib

import jax
import jax.numpy as jnp
import pytest
from flax import nnx
from helpers import hf, tiny

from moejax import config
from moejax.config import user_files
from moejax.convert import folder, load
from moejax.model import build

ZOO = str(pathlib.Path(__file__).parents[2] / 'configs' / 'zoo.py')

# Matrices: every output is a sum over inputs.
DECAY = {
  'embeddings': 'embed_VD head_DV w_2CD',
  'attention': 'w_q_DHK w_k_DGK w_v_DGK w_o_HKD',
  'latent attention': 'w_dq_DQ w_uq_QHK w_dkv_DR w_ukv_RHK w_o_HVD',
  'experts': 'w_in_ED2F w_in_EDF w_out_EFD',
  'space of experts': 'w_down_DZ w_up_ZD',
  'autonomous experts': 'w_down_EDR w_up_ERF w_p_EDF',
  'PEER': 'w_query_DH2K keys_2NK u_ED v_ED',
  'Soft MoE': 'phi_DEP',
  'LatentMoE': 'w_down_DZ w_up_ZD',
  'scores of experts': 'w_DE w_EZ w_DZ v_VZ',
  'network of scores': 'w_down_DR w_one_RR w_two_RR w_out_RE',
  'logits of the layer before': 'residual',
  'gate of shared experts': 'w_gate_D',
  'mix of a constant expert': 'w_CD2',
}
# Multiplied or added element by element, or moved by no gradient.
STAY = {
  'scales of norms': 'scale_D scale_HK scale',
  'biases': 'b_q_HK b_k_GK b_v_GK b_o_D b_E b_in_E2F b_in_EF b_out_ED',
  'scores of nowhere': 'sink_H',
  'temperatures': 'log_tau',
  'a constant in place of an expert': 'v_CD',
  'scores of no token': 'c_E',
  'network of scores': 'b_down_R b_one_R b_two_R norm_scale_R depth_scale_R',
  'states': 'selection_bias_E momentum_E steps l1',
  'more states': 'average_E updates first_E second_E',
  'a frozen network, and its input': 'w_DH b_H w_HN b_N r_D',
}
ANSWERS = {
  name: answer
  for answer, table in ((True, DECAY), (False, STAY))
  for names in table.values()
  for name in names.split()
}


def _zoo():
  names = user_files.load(ZOO, 'config').NAMES
  return {name: config.load(f'{ZOO}:tiny,{name}').model for name in names}


def _families():
  folders = {path.name: path for path in hf.GOLDEN.iterdir()}
  return {
    name: load.plan(folder.open_folder(str(path))).config
    for name, path in folders.items()
  }


@pytest.mark.parametrize('configs', [_zoo, _families])
def test_every_weight_of_every_model_has_its_answer(configs):
  mesh = tiny.mesh()
  # Some are the same model.
  for model, name in {of: name for name, of in configs().items()}.items():
    for path, decays in build.build(model, mesh).decays.items():
      assert decays == ANSWERS[path.split('/')[-1]], f'{name}: {path}'


def test_a_weight_that_does_not_say_is_an_error(monkeypatch):
  silent = functools.partial(nnx.Param, jnp.ones(4), axes=('embed',))

  class Silent(build.Decoder):
    def __init__(self, *args):
      super().__init__(*args)
      self.extra = silent()

  monkeypatch.setattr(build, 'Decoder', Silent)
  with pytest.raises(ValueError, match='^extra does not say whether it decays'):
    jax.block_until_ready(tiny.model().shapes)
