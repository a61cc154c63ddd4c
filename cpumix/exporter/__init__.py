"""Writes a model file as a GGUF file that llama.cpp loads, tokenizer and chat template included.

Weights keep their numbers: only their order changes (`weights`). `metadata` says what the model is
in llama.cpp's terms, `vocabulary` what its tokenizer is.
"""

from .gguf_file import ExportReport, export

__all__ = ["ExportReport", "export"]
