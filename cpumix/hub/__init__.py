"""Checkpoints by their names on the Hugging Face hub, whole or one shard after the other."""

from .download import download
from .files import HubFile, HubName, choose_files, parse_name
from .shards import HubShards, open_shards

__all__ = [
    "HubFile",
    "HubName",
    "HubShards",
    "choose_files",
    "download",
    "open_shards",
    "parse_name",
]
