"""`tools/measure_context.py` on a tiny model."""

from __future__ import annotations

import re

import measure_context
import pytest
from oracle_cases import MIXTRAL
from tiny_models import write_model

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("kv", ["f16", "int8"])
def test_measures_both_contexts(tmp_path, capsys, kv):
    path = write_model(tmp_path, MIXTRAL | {"max_position_embeddings": 1024})
    options = ["--kv", kv, "--short", "5", "--long", "600", "--rounds", "2"]
    measure_context.main([str(path), *options])
    short, long, ratio, *prompt = capsys.readouterr().out.splitlines()
    assert re.fullmatch(r"decode after +5 tokens: \d+\.\d\d ms a token", short)
    assert re.fullmatch(r"decode after +600 tokens: \d+\.\d\d ms a token", long)
    assert re.fullmatch(rf"ratio \d+\.\d+, KV cache {kv}, \d+ threads", ratio)
    assert [line.split(":")[0] for line in prompt] == ["prompt from      0", "prompt from    512"]
