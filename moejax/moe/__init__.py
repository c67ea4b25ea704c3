"""Mixture of experts: router x dispatcher x experts x balance.

Letters of shapes: T tokens, D model width, F hidden width of an expert,
E experts, K experts per token, A assignments (token, expert, weight),
R rows as the experts see them (grouped by expert), C capacity of an expert.
A file that needs further letters defines them where they first occur: Z is a
smaller width, R in a scorer's weights and state is the width of that state.

docs/moe.md explains how a layer works, docs/glossary.md defines the words.
"""
