"""Jinja templates of strangers, run with limits of time and memory that they cannot pass."""

from .template import JinjaTemplate, TemplateError

__all__ = ["JinjaTemplate", "TemplateError"]
