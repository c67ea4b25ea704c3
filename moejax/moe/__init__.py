"""Mixture of experts: router x dispatcher x experts x balance.

Letters of shapes: T tokens, D model width, F hidden width of an expert,
E experts, K experts per token, A assignments (token, expert, weight),
R rows as the experts see them (grouped by expert), C capacity of an expert.

docs/moe.md explains how a layer works, docs/glossary.md defines the words.
"""
