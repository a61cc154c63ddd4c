"""Turns a checkpoint into a model file, a slice of one tensor at a time."""

from .conversion import ConvertReport, convert

__all__ = ["ConvertReport", "convert"]
