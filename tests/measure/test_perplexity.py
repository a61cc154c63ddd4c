"""Scores equal a plain computation from the logits; what cannot be scored is refused."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
from tiny_models import CONFIGS, write_model

import cpumix
from cpumix.errors import ConfigError
from cpumix.measure.perplexity import SMALLEST_CONTEXT, cut, evaluate
from cpumix.measure.recorded import Recorded
from cpumix.measure.routing import RoutedModel

TEXT = "In the beginning God created the heaven and the earth. " * 12
CONTEXT = 96
SCORED = CONTEXT - CONTEXT // 2 - 1  # tokens of a window


class Letters:
    """A tokenizer whose ids are the characters' codes, with BOS = 1 or without."""

    def __init__(self, bos: bool = True) -> None:
        self.start = [1] if bos else []

    def encode(self, text: str) -> list[int]:
        return self.start + [ord(letter) for letter in text]


class Fake:
    """A model with made-up logits that depend on the token and its position."""

    def __init__(self, seed: int, vocab: int = 128, shift: float = 0) -> None:
        self.config = SimpleNamespace(vocab_size=vocab)
        self.tokenizer = Letters()
        self.table = np.random.default_rng(seed).normal(0, 3, (vocab, vocab)) + shift
        self.asked: list[list[int]] = []
        self.experts = None

    def logits(self, ids):
        self.asked.append(list(ids))
        places = np.arange(len(ids))[:, None] / 100
        return (self.table[ids] * (1 + places)).astype(np.float32)


def probabilities(model, text: str, context: int) -> tuple[np.ndarray, np.ndarray]:
    """Return what a model thinks before each scored token, and those tokens: the plain way."""
    found, targets = [], []
    for window in cut(model.tokenizer, text, context):
        logits = model.logits(window).astype(np.float64)
        for place in range(context // 2 + 1, context):
            weights = np.exp(logits[place - 1])
            found.append(weights / weights.sum())
            targets.append(window[place])
    return np.array(found), np.array(targets)


def test_scores_equal_the_plain_computation():
    model, reference = Fake(seed=1), Fake(seed=2)
    result = evaluate(model, TEXT, against=reference, context=CONTEXT)
    p, targets = probabilities(model, TEXT, CONTEXT)
    q, _ = probabilities(reference, TEXT, CONTEXT)
    rows = np.arange(len(targets))
    loss, other = -np.log(p[rows, targets]), -np.log(q[rows, targets])
    divergence = (q * np.log(q / p)).sum(axis=1)
    n = len(targets)
    assert result.tokens == n == SCORED * result.windows
    assert result.perplexity == pytest.approx(np.exp(loss.mean()))
    assert result.perplexity_error == pytest.approx(
        result.perplexity * loss.std(ddof=1) / np.sqrt(n)
    )
    found = result.against
    assert found.perplexity == pytest.approx(np.exp(other.mean()))
    assert found.ratio == pytest.approx(result.perplexity / found.perplexity)
    ratio_error = found.ratio * (loss - other).std(ddof=1) / np.sqrt(n)
    assert found.ratio_error == pytest.approx(ratio_error)
    assert found.kl_divergence == pytest.approx(divergence.mean())
    assert found.kl_divergence_error == pytest.approx(divergence.std(ddof=1) / np.sqrt(n))
    ordered = np.sort(divergence)  # between neighbours on a straight line, as llama.cpp does it
    assert found.kl_divergence_median == pytest.approx(
        (ordered[(n - 1) // 2] + ordered[n // 2]) / 2
    )
    place, rest = divmod(0.99 * (n - 1), 1)
    below, above = ordered[int(place)], ordered[int(place) + 1]
    assert found.kl_divergence_99 == pytest.approx(below + rest * (above - below))
    assert found.kl_divergence_maximum == pytest.approx(ordered[-1])
    share = np.mean(p.argmax(axis=1) == q.argmax(axis=1))
    assert found.same_top == share
    assert found.same_top_error == pytest.approx(np.sqrt(share * (1 - share) / (n - 1)))
    change = p[rows, targets] - q[rows, targets]
    rms = np.sqrt(np.mean(change**2))
    assert found.probability_rms == pytest.approx(rms)
    rms_error = (change**2).std(ddof=1) / np.sqrt(n) / (2 * rms)
    assert found.probability_rms_error == pytest.approx(rms_error)
    assert found.other_experts is found.other_experts_error is found.other_experts_by_layer is None


class Routed(Fake):
    """One that tells of 3 layers which 2 of 4 experts each token takes, in any order."""

    def __init__(self, seed: int) -> None:
        super().__init__(seed)
        self.choices = np.random.default_rng(seed)
        self.first_pair = [0, 1] if seed % 2 else [1, 0]

    def logits(self, ids):
        self.experts = np.argsort(self.choices.random((3, len(ids), 4)), axis=-1)[..., :2]
        self.experts[0] = self.first_pair
        return super().logits(ids)


def test_other_experts_are_counted_where_tokens_are_scored():
    model, reference = Routed(seed=1), Routed(seed=2)
    assert model.first_pair != reference.first_pair  # one pair in two orders in layer 0
    result = evaluate(model, TEXT, against=reference, context=CONTEXT)
    model, reference, differ = Routed(seed=1), Routed(seed=2), []
    for window in cut(model.tokenizer, TEXT, CONTEXT):
        model.logits(window), reference.logits(window)
        for place in range(CONTEXT // 2, CONTEXT - 1):
            pairs = zip(model.experts[:, place], reference.experts[:, place], strict=True)
            differ.append([set(ours) != set(theirs) for ours, theirs in pairs])
    found, counted = result.against, np.array(differ)
    assert len(counted) == result.tokens
    assert found.other_experts_by_layer == pytest.approx(counted.mean(axis=0))
    assert found.other_experts_by_layer[0] == 0
    assert found.other_experts == pytest.approx(counted.mean())
    by_token = counted.mean(axis=1)
    error = by_token.std(ddof=1) / np.sqrt(len(by_token))
    assert found.other_experts_error == pytest.approx(error)


def test_what_is_recorded_is_computed_once():
    model = Routed(seed=2)
    with Recorded(model) as recorded:
        found = [evaluate(Routed(1), TEXT, against=recorded, context=CONTEXT) for _ in range(2)]
    assert found[0] == found[1] == evaluate(Routed(1), TEXT, against=Routed(2), context=CONTEXT)
    assert len(model.asked) == found[0].windows


def test_model_that_knows_nothing_has_the_vocabulary_as_its_perplexity():
    model = Fake(seed=1)
    model.table[:] = 5
    result = evaluate(model, TEXT, context=CONTEXT)
    assert result.perplexity == pytest.approx(128)
    assert result.against is None


def test_what_all_logits_share_changes_nothing_and_does_not_overflow():
    near, far = (evaluate(Fake(1, shift=shift), TEXT, context=CONTEXT) for shift in (0, 1000))
    assert far.perplexity == pytest.approx(near.perplexity, rel=1e-3)


def test_loss_that_has_no_exponential_is_refused():
    """A model of sound numbers that finds the text impossible: e^1000 is no figure."""
    model = Fake(seed=1)
    model.table[:] = 0
    model.table[:, 2] = 1000
    with pytest.raises(ConfigError, match="expected a finite number, found a mean loss of 1"):
        evaluate(model, TEXT, context=CONTEXT)


def test_windows_start_with_bos_and_leave_out_the_rest():
    ids = Letters().encode(TEXT)
    windows = cut(Letters(), TEXT, CONTEXT)
    assert len(windows) == len(ids) // CONTEXT
    for i, window in enumerate(windows):
        assert window == [1, *ids[i * CONTEXT + 1 : (i + 1) * CONTEXT]]


def test_windows_of_a_model_without_bos_are_the_text():
    windows = cut(Letters(bos=False), TEXT, CONTEXT)
    text = "".join(chr(token) for window in windows for token in window)
    assert text == TEXT[: CONTEXT * len(windows)]


def test_text_of_exactly_one_window():
    assert len(cut(Letters(bos=False), TEXT[:CONTEXT], CONTEXT)) == 1


def test_only_the_first_windows_are_scored():
    model = Fake(seed=1)
    progress = []
    result = evaluate(
        model, TEXT, context=CONTEXT, windows=2, progress=lambda *done: progress.append(done)
    )
    assert (result.windows, result.tokens) == (2, 2 * SCORED)
    assert model.asked == cut(model.tokenizer, TEXT, CONTEXT)[:2]
    assert progress == [(0, 2), (1, 2), (2, 2)]


def test_more_windows_than_there_are_means_all():
    assert evaluate(Fake(seed=1), TEXT, context=CONTEXT, windows=99).windows == 6


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"context": SMALLEST_CONTEXT - 1}, r"context: expected at least 8 tokens .* found 7\."),
        ({"windows": 0}, r"windows: expected 1 or more, found 0\."),
        ({"text": "Short."}, r"text: expected at least 96 tokens, one window, found 7\."),
        ({"text": ""}, r"found 1\. Take a longer text or a smaller --context\."),
        ({"against": Fake(2, vocab=130)}, r"vocabularies of one size, found 128 and 130 tokens\."),
    ],
)
def test_what_cannot_be_scored(change, message):
    request = {"text": TEXT, "context": CONTEXT} | change
    with pytest.raises(ConfigError, match=message):
        evaluate(Fake(seed=1), **request)


def test_models_with_different_tokenizers():
    other = Fake(seed=2)
    other.tokenizer = Letters(bos=False)
    with pytest.raises(ConfigError, match="expected the same tokens from both tokenizers"):
        evaluate(Fake(seed=1), TEXT, against=other, context=CONTEXT)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    path = write_model(tmp_path_factory.mktemp("model"), CONFIGS["moe"])
    with cpumix.load(path, context=CONTEXT) as model:
        yield model


@pytest.mark.slow
def test_real_model_equals_the_plain_computation(model):
    p, targets = probabilities(model, TEXT, CONTEXT)
    loss = -np.log(p[np.arange(len(targets)), targets])
    result = evaluate(model, TEXT, context=CONTEXT)
    assert result.perplexity == pytest.approx(np.exp(loss.mean()))


def test_real_model_does_not_differ_from_itself(model):
    found = evaluate(model, TEXT, against=model, context=CONTEXT).against
    assert (found.ratio, found.kl_divergence, found.same_top) == (1, 0, 1)
    assert found.probability_rms == found.probability_rms_error == 0
    assert found.kl_divergence_maximum == found.same_top_error == 0


def test_experts_of_a_real_model_are_those_that_its_router_picks(tmp_path):
    """The first layer's router sees embeddings and attention only: twice the same text, one set."""
    path = write_model(tmp_path, CONFIGS["moe"])
    with RoutedModel(path, context=CONTEXT) as model:
        ids = model.tokenizer.encode(TEXT)[:CONTEXT]
        assert (model.logits(ids) == model.model.logits(ids)).all()
        model.logits(ids[:10])
        start = model.experts
        model.logits(ids)
        config, found = model.config, model.experts
        assert found.shape == (config.num_hidden_layers, CONTEXT, config.num_experts_per_tok)
        assert (found[:, :10] == start).all()
        assert len(np.unique(found)) > config.num_experts_per_tok
        assert (np.diff(np.sort(found, axis=-1), axis=-1) > 0).all()
        result = evaluate(model, TEXT, against=model, context=CONTEXT).against
        assert result.other_experts == 0


def test_low_copy_counts_as_its_expert(checkpoint_folder, tmp_path):
    cpumix.convert(checkpoint_folder, tmp_path / "m.bin", "int8", low_copy=True)
    found = []
    for low_copy in ("on", "off"):
        with RoutedModel(tmp_path / "m.bin", context=CONTEXT, low_copy=low_copy) as model:
            model.logits(range(2, 40))
            found.append(model.experts)
    assert (found[0][0] == found[1][0]).all()


def test_model_without_router_has_no_experts_to_compare(tmp_path):
    with RoutedModel(write_model(tmp_path, CONFIGS["dense"]), context=CONTEXT) as model:
        result = evaluate(model, TEXT, against=model, context=CONTEXT)
    assert result.against.other_experts_by_layer is None


def test_window_larger_than_the_models_context(model):
    with pytest.raises(ConfigError, match="do not fit into a context of 96"):
        evaluate(model, TEXT, context=CONTEXT + 1)
