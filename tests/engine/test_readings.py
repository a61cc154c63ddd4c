"""Texts that are read: as transformers reads them, alone or beside others, in any memory."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from checkpoints import write_shard
from classifier_cases import CASES, MOODS, Golden, relative_rms
from oracle_cases import LOGITS_TOLERANCE, weights_crc
from paged_models import Room, expert_bytes, write_paged
from tiny_checkpoint import huggingface_names
from tiny_models import CONFIGS, write_model, write_source

import cpumix
from cpumix.engine.classification import classification
from cpumix.engine.pooling import SETTINGS, Pooling, find_pooling
from cpumix.errors import ConfigError
from cpumix.experts import ExpertPager
from cpumix.kv.pool import KV_BLOCK
from cpumix.model import Model

TEXTS = ["And they returned", "ab", "the king of the city " * 9, "to the city"]


@pytest.fixture(scope="module")
def writer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that writes."""
    return write_model(tmp_path_factory.mktemp("writer"), CONFIGS["moe"])


@pytest.fixture
def classifier(classifier_file):
    with cpumix.load(classifier_file, threads=1, context=256) as model:
        yield model


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_as_transformers_reads(case, tmp_path):
    golden = Golden.load(case.name)
    assert golden.weights == weights_crc(case.weights())
    cpumix.convert(case.write(tmp_path / "checkpoint"), target := tmp_path / "model.bin", "bf16")
    with cpumix.load(target, threads=1, context=256) as model:
        found = np.stack([one.logits for one in model.classify(golden.texts)])
        for padding, expected in enumerate(golden.logits):
            assert relative_rms(found, expected) <= LOGITS_TOLERANCE, padding
        for pooling in ("mean", "last"):
            expected = getattr(golden, pooling)
            expected = expected / np.linalg.norm(expected, axis=1, keepdims=True)
            found = model.embed(golden.texts, pooling=pooling)
            assert relative_rms(found, expected) <= LOGITS_TOLERANCE


@pytest.mark.parametrize("prefix", ["model.", ""])
def test_models_without_a_head_make_embeddings(tmp_path, prefix):
    case = CASES[0]
    folder = case.write(tmp_path / "checkpoint")
    config = {k: v for k, v in case.config.items() if "label" not in k and k != "pad_token_id"}
    stem = case.config["architectures"][0].removesuffix("ForSequenceClassification")
    config["architectures"] = [f"{stem}Model"]
    (folder / "config.json").write_text(json.dumps(config))
    names = huggingface_names(case.weights(), fused=False)
    names = {n.replace("model.", prefix): w for n, w in names.items() if n != "score.weight"}
    write_shard(folder / "model.safetensors", names)
    cpumix.convert(folder, target := tmp_path / "model.bin", "bf16")
    golden = Golden.load(case.name)
    with cpumix.load(target, threads=1, context=256) as model:
        found = model.embed(golden.texts, pooling="last")
        expected = golden.last / np.linalg.norm(golden.last, axis=1, keepdims=True)
        assert relative_rms(found, expected) <= LOGITS_TOLERANCE
        with pytest.raises(ConfigError, match="found MixtralModel, which makes embeddings only"):
            model.generate("a")
        with pytest.raises(ConfigError, match=r"expected a classifier, .* MixtralModel with none"):
            model.classify(["a"])


def test_labels_and_probabilities(classifier):
    first, second = classifier.classify(TEXTS[:2])
    assert first.labels == ("calm", "glad", "sad")
    assert first.probabilities.sum() == pytest.approx(1)
    assert first.label == first.labels[first.probabilities.argmax()]
    told = second.to_dict()
    assert told["label"] == told["labels"][0]["label"] == second.label
    assert told["labels"][0]["probability"] == second.probability
    assert [one["logit"] for one in told["labels"]] == sorted(second.logits.tolist(), reverse=True)
    assert told["prompt_tokens"] == len(classifier.tokenizer.encode(TEXTS[1]))


@pytest.mark.parametrize(
    ("kind", "labels", "expected"),
    [
        (None, 2, [np.exp(2) / (1 + np.exp(2)), 1 / (1 + np.exp(2))]),
        (None, 1, [1 / (1 + np.exp(-2))]),
        ("single_label_classification", 2, [np.exp(2) / (1 + np.exp(2)), 1 / (1 + np.exp(2))]),
        ("multi_label_classification", 2, [1 / (1 + np.exp(-2)), 0.5]),
        ("regression", 2, [2, 0]),
    ],
)
def test_what_logits_mean(classifier, kind, labels, expected):
    from dataclasses import replace

    config = replace(classifier.config, labels=("a", "b")[:labels], problem_type=kind)
    logits = np.array([2, 0], np.float32)[:labels]
    assert classification(config, logits, 1).probabilities == pytest.approx(expected)


def test_vectors_have_length_one(writer):
    with cpumix.load(writer, threads=1, context=256) as model:
        for pooling in ("mean", "last"):
            vectors = model.embed(TEXTS, pooling=pooling)
            assert vectors.shape == (4, 64)
            assert np.linalg.norm(vectors, axis=1) == pytest.approx(1)
        assert model.embed([]).shape == (0, 64)


@pytest.mark.parametrize("pooling", ["mean", "last"])
def test_a_vector_does_not_depend_on_the_others(writer, pooling):
    with cpumix.load(writer, threads=1, context=512, parallel=2) as model:
        together = model.embed([*TEXTS, *TEXTS[::-1]], pooling=pooling)
        alone = [model.embed([text], pooling=pooling)[0] for text in TEXTS]
        generation = iter(model.generate("the city", max_tokens=40, raw=True, temperature=0))
        next(generation)
        beside = model.embed(TEXTS, pooling=pooling)
        rest = "".join(generation)
        plain = "".join(model.generate("the city", max_tokens=40, raw=True, temperature=0))
    assert (together[:4] == alone).all()
    assert (together[:3:-1] == alone).all()
    assert (beside == alone).all()
    assert rest
    assert plain.endswith(rest)


def test_a_last_token_is_read_behind_what_is_in_the_cache(classifier):
    long = TEXTS[2]
    first = classifier.classify([long])
    prefix = classifier.engine.scheduler.prefix
    before = prefix.hit_tokens
    assert (classifier.classify([long])[0].logits == first[0].logits).all()
    assert prefix.hit_tokens - before >= KV_BLOCK
    before = prefix.hit_tokens
    classifier.embed([long], pooling="mean")  # which needs all hidden states
    assert prefix.hit_tokens == before


def test_any_memory_gives_the_same_vectors(tmp_path):
    path = write_paged(tmp_path / "paged.bin")
    with cpumix.load(path, threads=1, context=256) as model:
        whole, each = model.embed(TEXTS), expert_bytes(model)
    paged = Model(
        path,
        threads=1,
        context=256,
        make_pager=lambda file, budget, **options: ExpertPager(file, Room(4 * each), **options),
    )
    with paged as model:
        assert model.paged
        assert (model.embed(TEXTS) == whole).all()
        assert model.engine.pager.counters.evictions


def test_progress_counts_texts(classifier):
    told = []
    classifier.classify(TEXTS, progress=lambda done, count: told.append((done, count)))
    assert told == [(i + 1, 4) for i in range(4)]


def test_padding_at_the_end_is_passed_over(classifier):
    pad = classifier.config.pad_token_id
    plain, padded, only = classifier.classify([[1, 9, 8], [1, 9, 8, pad, pad], [pad, pad]])
    assert (plain.logits == padded.logits).all()
    assert (padded.prompt_tokens, only.prompt_tokens) == (3, 1)


def test_interruption_ends_all_texts(classifier):
    def interrupt(done: int, count: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        classifier.classify([TEXTS[2]] * 20, progress=interrupt)
    assert len(classifier.classify(TEXTS)) == 4
    engine = classifier.engine
    assert engine.loop.call(lambda: engine.scheduler.jobs) == []


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        ("a text", "texts: expected a list, found a single text. Put it in a list."),
        ([5], "token ids: expected a list of whole numbers"),
        ([[]], "prompt: expected at least one token, found none."),
        ([[1, 384]], "prompt: expected token ids from 0 to 383"),
        ([[1] * 257], "prompt: 257 tokens do not fit into a context of 256."),
    ],
)
def test_texts_that_are_none(classifier, texts, message):
    for read in (classifier.classify, classifier.embed):
        with pytest.raises(ConfigError, match=message):
            read(texts)


def test_the_text_that_is_none_is_named(classifier):
    with pytest.raises(ConfigError, match=r"^text 2: prompt: 257 tokens do not fit"):
        classifier.classify(["a", [1] * 257])


def test_many_texts_are_handed_over_bit_by_bit(classifier, monkeypatch):
    monkeypatch.setattr("cpumix.engine.reader.AT_ONCE", 3)
    texts = [[1, 5 + i] for i in range(20)]
    found = classifier.classify(texts)
    assert (found[7].logits == classifier.classify([texts[7]])[0].logits).all()
    assert len({one.logits.tobytes() for one in found}) == 20


def test_pooling_that_is_none(classifier):
    with pytest.raises(ConfigError, match='pooling: expected one of mean, last, found "max"'):
        classifier.embed(TEXTS, pooling="max")


@pytest.mark.parametrize(
    ("settings", "pooling"),
    [
        (None, "mean"),
        ({"pooling_mode_mean_tokens": True, "pooling_mode_cls_token": False}, "mean"),
        ({"pooling_mode_lasttoken": True, "word_embedding_dimension": 64}, "last"),
        ({"pooling_mode": "lasttoken"}, "last"),
        ([], "mean"),  # damaged
    ],
)
def test_pooling_is_what_the_model_was_trained_with(tmp_path, settings, pooling):
    source = write_source(tmp_path / "checkpoint", MOODS)
    if settings is not None:
        (source / "1_Pooling").mkdir()
        (source / "1_Pooling/config.json").write_text(json.dumps(settings))
    cpumix.convert(source, target := tmp_path / "model.bin", "int8")
    with cpumix.load(target, threads=1) as model:
        assert (model.embed(TEXTS) == model.embed(TEXTS, pooling=pooling)).all()


@pytest.mark.parametrize("mode", ["cls_token", "max_tokens"])
def test_pooling_that_nobody_here_knows(mode):
    files = {SETTINGS: json.dumps({f"pooling_mode_{mode}": True}).encode()}
    with pytest.raises(ConfigError, match=f'pooling: expected one of mean, last, found "{mode}"'):
        find_pooling(None, files)
    assert find_pooling("last", files) is Pooling.LAST


def test_closed_model_reads_nothing(classifier_file):
    with cpumix.load(classifier_file, threads=1) as model:
        pass
    with pytest.raises(ConfigError, match="model: expected an open one, found it closed"):
        model.classify(TEXTS)


def test_a_classifier_does_not_write(classifier):
    for ask in (
        lambda: classifier.generate("a"),
        lambda: classifier.generate_many(["a"]),
        lambda: classifier.generate_ids([1], 5),
        lambda: classifier.logits([1]),
        lambda: classifier.advance([1]),
    ):
        with pytest.raises(
            ConfigError, match="model: expected a language head, which writes texts"
        ):
            ask()


def test_a_model_that_writes_does_not_classify(writer):
    with cpumix.load(writer, threads=1) as model:
        with pytest.raises(
            ConfigError, match="expected a classifier, with a score head, found Mixtral"
        ):
            model.classify(["a"])
