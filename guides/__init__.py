# ruff: noqa: F401
"""Guides: the variational families q(response | prompt), one a file, and their registry."""

from guides.families import GUIDES, Family
from guides.fine_tuned import FineTuned
from guides.fixed import Fixed
from guides.guide import Guide
from guides.lora import LoRA
from guides.mean_field import MeanField
from guides.mixture import mixture_of
from guides.n_gram import NGram
from guides.recurrent import Recurrent
from guides.soft_prompt import SoftPrompt
from guides.tabular import Tabular
from guides.tempered import Tempered
from guides.twisted import Twisted
