"""A calibrated conversion: the same file however it comes about, and better predictions."""

from __future__ import annotations

import contextlib
from collections import Counter
from pathlib import Path
from typing import Any

import checkpoints
import numpy as np
import pytest
from click.testing import CliRunner
from gguf_files import TOKENIZERS, metadata_of, sentencepiece_metadata, tensors_of, write_gguf
from oracle_cases import LLAMA, MIXTRAL, OLMOE, QWEN2, QWEN3_MOE
from threadpoolctl import threadpool_limits
from tiny_checkpoint import make_weights

import cpumix
import cpumix.converter.calibration.calibration
import cpumix.converter.calibration.moments
from cpumix.cli.main import main
from cpumix.converter.calibration.text import SHIPPED, read_calibration
from cpumix.converter.tensor_errors import ROUNDED_FORMATS
from cpumix.errors import ConfigError, ConvertError
from cpumix.store import ModelFile, layout

pytestmark = pytest.mark.slow

HELDOUT = Path(__file__).parents[1] / "data" / "heldout.txt"
SIZES = {"vocab_size": 300, "hidden_size": 96, "intermediate_size": 72}
CONTEXT = 64  # of the tiny models: their windows have no more
TOKENS = 1024
MOE = checkpoints.MIXTRAL | SIZES | {"max_position_embeddings": CONTEXT}
DENSE = checkpoints.LLAMA | SIZES | {"max_position_embeddings": CONTEXT}


@pytest.fixture
def source(tmp_path: Path) -> Path:
    checkpoints.write_checkpoint(tmp_path / "source", MOE)
    return tmp_path / "source"


def convert(source: Path, precision: str = "int4", **options: Any) -> bytes:
    """Convert with calibration and return the bytes of the model file."""
    target = source.with_name("model.bin")
    known = {"calibrate": HELDOUT, "calibration_tokens": TOKENS, "force": True}
    cpumix.convert(source, target, precision, **{**known, **options})
    return target.read_bytes()


def errors_of(path: Path) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Return what the file says of each tensor: errors [2], and those by format [2, formats]."""
    with ModelFile(path) as file:
        names, found = list(file.tensors), file.metadata
        written = found[layout.ERRORS_KEY].reshape(-1, 2)
        formats = found[layout.ERROR_FORMATS_KEY]
        by_format = found[layout.FORMAT_ERRORS_KEY].reshape(-1, 2, len(formats))
    return dict(zip(names, written, strict=True)), dict(zip(names, by_format, strict=True))


def test_any_number_of_threads_gives_the_same_bytes(source, monkeypatch):
    made = []
    for threads in (1, 2):
        module = cpumix.converter.calibration.calibration
        monkeypatch.setattr(module, "find_threads", lambda *_, threads=threads: threads)
        with threadpool_limits(threads, user_api="blas"):  # which conversion takes from NumPy
            made.append(convert(source))
    assert made[0] == made[1]


class Interrupt(BaseException):
    """What no code expects."""


@pytest.mark.parametrize("shares", [(0.2,), (0.5,), (0.97,), (0.1, 0.4, 0.8)])
def test_interrupted_conversion_goes_on_and_ends_in_the_same_bytes(source, shares):
    expected = convert(source)
    for share in shares:

        def stop(done: int, total: int, share: float = share) -> None:
            if done > share * total:
                raise Interrupt

        with pytest.raises(Interrupt):
            convert(source, resume=True, progress=stop)
    report = []
    seen: list[tuple[int, int]] = []
    target = source.with_name("model.bin")
    report = cpumix.convert(
        source,
        target,
        "int4",
        calibrate=HELDOUT,
        calibration_tokens=TOKENS,
        force=True,
        resume=True,
        progress=lambda *at: seen.append(at),
    )
    assert target.read_bytes() == expected
    assert report.resumed > 0
    assert seen[0][0] > 0
    assert seen[-1][0] == seen[-1][1]
    assert [path.name for path in source.parent.iterdir() if path != source] == ["model.bin"]


def test_another_text_is_another_conversion(source, tmp_path):
    expected = convert(source)

    def stop(done: int, total: int) -> None:
        if done > total / 2:
            raise Interrupt

    with pytest.raises(Interrupt):
        convert(source, resume=True, progress=stop)
    other = tmp_path / "other.txt"
    other.write_text(HELDOUT.read_text()[5000:])
    assert convert(source, resume=True, calibrate=other) != expected


@pytest.mark.parametrize(
    "config",
    [
        pytest.param(MIXTRAL | {"num_experts_per_tok": 3}, id="mixtral"),
        pytest.param(LLAMA | {"attention_bias": True}, id="llama"),
        pytest.param(LLAMA | {"tie_word_embeddings": True}, id="tied"),
        pytest.param(QWEN2, id="qwen2"),
        pytest.param(QWEN3_MOE, id="qwen3-moe"),
        pytest.param(OLMOE, id="olmoe"),
    ],
)
def test_families(tmp_path, config):
    config = config | {"vocab_size": 300, "max_position_embeddings": CONTEXT}
    checkpoints.write_checkpoint(tmp_path / "source", config)
    convert(tmp_path / "source")
    with ModelFile(tmp_path / "model.bin") as file:
        file.verify()
    with cpumix.load(tmp_path / "model.bin", context=32) as model:
        assert np.isfinite(model.logits(range(3, 20))).all()


def test_outputs_change_less_than_without(source):
    """By the moments of the text itself, of every matrix of experts and the sum of all others."""
    convert(source)
    written, by_format = errors_of(source.with_name("model.bin"))
    plain = {name: found[:, ROUNDED_FORMATS.index("q4s")] for name, found in by_format.items()}
    experts = [name for name in written if "expert" in name]
    assert len(experts) == 8
    gained = sum(written[name] for name in experts) / sum(plain[name] for name in experts)
    assert (gained < 0.9).all()
    for name in experts:
        assert (written[name] > 0).all() or not plain[name].any()
    at_6_bits = {n: found[0, ROUNDED_FORMATS.index("q6")] for n, found in by_format.items()}
    for name in ("blk.0.attn_q.weight", "blk.0.attn_output.weight", "output.weight"):
        assert 0 < written[name][0] < 1.1 * at_6_bits[name]
    assert written["token_embd.weight"][0] == at_6_bits["token_embd.weight"] > 0


def test_energies_of_the_stream_stand_with_the_norms(source):
    convert(source)
    written, by_format = errors_of(source.with_name("model.bin"))
    norms = [name for name in written if "norm" in name]
    assert len(norms) == 5
    assert all(written[name][0] > 0 and not by_format[name].any() for name in norms)


def test_conversion_without_calibration_says_what_weights_lost(source):
    convert(source, calibrate=False)
    with ModelFile(source.with_name("model.bin")) as file:
        assert file.metadata[layout.ERROR_KIND_KEY] == layout.OF_WEIGHTS
        assert layout.FORMAT_ERRORS_KEY not in file.metadata
        written = file.metadata[layout.ERRORS_KEY].reshape(-1, 2)
        for (name, entry), found in zip(file.tensors.items(), written, strict=True):
            expected = {"f32": 0.0, "q6": 0.0199, "q4s": 0.0715}[entry.format] ** 2
            assert found[0] == pytest.approx(expected, rel=0.3), name
            assert found[1] == pytest.approx(expected if "expert" in name else 0, rel=0.3)


def test_numbers_that_fit_are_kept(tmp_path):
    """Of a GGUF file of Q4_0 each number of experts stays, as without calibration."""
    config = checkpoints.MIXTRAL | {"vocab_size": 600, "hidden_size": 64, "intermediate_size": 96}
    tensors = tensors_of(config, make_weights(config, seed=0))
    random = np.random.default_rng(0)
    for name, tensor in tensors.items():
        if "exps" in name:
            blocks = random.integers(0, 256, (int(np.prod(tensor.shape)) // 32, 18), np.uint8)
            scales = random.uniform(-0.1, 0.1, len(blocks)).astype(np.float16)
            blocks[:, :2] = scales.view(np.uint8).reshape(-1, 2)
            tensors[name] = tensor._replace(kind="Q4_0", data=blocks.tobytes())
    tokenizer = sentencepiece_metadata((TOKENIZERS / "small.model").read_bytes())
    source = write_gguf(tmp_path / "a.gguf", metadata_of(config) | tokenizer, tensors)
    made = []
    for calibrate in (False, HELDOUT):
        convert(source, calibrate=calibrate, calibration_tokens=4096)
        with ModelFile(tmp_path / "model.bin") as file:
            made.append({name: file.data(name).tobytes() for name in file.tensors})
    changed = [name for name in made[0] if made[0][name] != made[1][name]]
    assert changed and not any("expert" in name for name in changed)
    written, by_format = errors_of(tmp_path / "model.bin")
    assert not any(written[name].any() for name in made[0] if "expert" in name)
    assert by_format["blk.0.expert.0"].any()


def test_damaged_checkpoint(source):
    weights = checkpoints.make_weights(MOE, seed=0)
    names = checkpoints.huggingface_names(weights, fused=False)
    change = {
        name: np.full(bits.shape, 1e9 if "layernorm" in name else 4e6, np.float32)
        for name, bits in names.items()
        if "layers.1.post_attention_layernorm" in name or "layers.1.block_sparse_moe.expert" in name
    }
    checkpoints.write_checkpoint(source, MOE, change=change)
    with pytest.raises(
        ConvertError, match=r"calibration: layer 1, expert \d: expected finite activations"
    ):
        convert(source)
    assert [path.name for path in source.parent.iterdir()] == ["source"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "calibration text: cannot be read"),
        (b"", r"calibration text: expected at least 512 tokens, found [01]\."),
        (b"Too short a text.", r"expected at least 512 tokens, found \d+\. Name a longer one"),
        (
            b"\x00\xff\xfe" * 100,
            r"calibration text .*expected UTF-8 text, found byte 0xff at position 1",
        ),
    ],
)
def test_text_that_will_not_do(source, tmp_path, content, message):
    text = tmp_path / "source" / "text.txt"
    if content is not None:
        text.write_bytes(content)
    with pytest.raises(ConfigError, match=message):
        convert(source, calibrate=text)
    assert [path.name for path in tmp_path.iterdir()] == ["source"]


def test_nothing_to_calibrate(source):
    with pytest.raises(ConfigError, match="expected a precision of 8 bits or fewer, found bf16"):
        convert(source, "bf16")


def test_command_line(source, tmp_path):
    target = str(tmp_path / "model.bin")
    arguments = ["convert", str(source), target, "--precision", "int4"]
    options = ["--calibrate", str(HELDOUT), "--calibration-tokens", str(TOKENS)]
    result = CliRunner().invoke(main, arguments + options)
    assert result.exit_code == 0, result.output
    assert Path(target).read_bytes() == convert(source)


def test_text_that_was_meant_as_source(source, tmp_path):
    result = CliRunner().invoke(main, ["convert", "--calibrate", str(source), "model.bin"])
    assert result.exit_code == 2
    assert "--calibrate has taken" in result.output


def test_text_that_comes_with_the_package(source):
    """Any tokenizer reads it, and it has several languages, code and dialogue."""
    text = read_calibration(None)
    for words in ("Caterpillar", "Gregor", "Mancha", "droits", "人", "User: ", "#include", "def "):
        assert words in text
    assert convert(source, calibrate=True)
    assert SHIPPED.stat().st_size < 200_000


def test_low_copies_are_rounded_for_the_same_inputs(source, tmp_path, monkeypatch):
    factored = Counter[str]()
    moments = cpumix.converter.calibration.moments

    def feedback(h: np.ndarray, real: Any = moments.feedback) -> Any:
        factored[name] += 1
        return real(h)

    monkeypatch.setattr(moments, "feedback", feedback)
    for name, options in {
        "plain": {"calibrate": HELDOUT},
        "low": {"calibrate": HELDOUT, "low_copy": True},
        "free": {"low_copy": True},
    }.items():
        cpumix.convert(source, tmp_path / name, "int4", calibration_tokens=TOKENS, **options)
    experts = MOE["num_hidden_layers"] * MOE["num_local_experts"]
    assert factored["low"] == factored["plain"] + experts  # for w2 only: w1 and w3 share theirs
    files = (ModelFile(tmp_path / name) for name in ("plain", "low", "free"))
    with contextlib.ExitStack() as stack:
        plain, low, free = (stack.enter_context(file) for file in files)
        for name in plain.tensors:
            assert low.data(name).tobytes() == plain.data(name).tobytes(), name
        copies = low.tensors.keys() - plain.tensors.keys()
        assert len(copies) == low.config.num_hidden_layers * low.config.num_local_experts
        assert all(low.data(name).tobytes() != free.data(name).tobytes() for name in copies)
