"""Conversations as data: templates, answers as targets, and packed rows.

A line of a file (`messages`) becomes text by a template (`templates`), its
answers are found in the text (`answers`), and all of it becomes token ids whose
prompts have no loss (`tokens`). `source` is the text that `cache_writer` packs.
"""

from moejax.data.chat.config import Chat

__all__ = ['Chat']
