"""Reads and writes Hugging Face checkpoints, and upcycles dense models.

Import: `folder` opens a folder of safetensors, `configs` turns its config.json
into a ModelConfig, and `load` reads its tensors into the weights of that model.
Export goes the other way: `save` plans and writes a folder. Both follow the
tables of `families`: `keys`, `layer_keys` and `rotary` map config keys, `rules`
maps tensors. Weights are passed as trees of arrays; saving a run is left to the
callers.

In all of these files "theirs" is what the Hugging Face folder has (keys, names
and layouts of tensors), and "ours" what moejax has.
"""
