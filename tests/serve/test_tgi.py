"""huggingface_hub's own client, unmodified, against a server."""

from __future__ import annotations

import importlib.util
import itertools
import json
from pathlib import Path

import httpx2
import pytest
from huggingface_hub import InferenceClient
from huggingface_hub.errors import OverloadedError, ValidationError

pytestmark = pytest.mark.slow
PROMPT = "And they returned to the"
EXAMPLE = Path(__file__).parent.parent.parent / "examples" / "gradio_chat.py"


@pytest.fixture(scope="module")
def client(demo):
    return InferenceClient(demo.url)


def events(answer) -> list[dict]:
    lines = answer.text.split("\n\n")
    return [json.loads(line.removeprefix("data:")) for line in lines if line.startswith("data:")]


def test_text_is_what_the_library_writes(client, demo):
    answer = client.text_generation(PROMPT, max_new_tokens=12)
    assert answer == "".join(demo.model.generate(PROMPT, max_tokens=12, temperature=0, raw=True))
    full = client.text_generation(PROMPT, max_new_tokens=12, return_full_text=True)
    assert full == PROMPT + answer


def test_details(client, demo):
    whole = client.text_generation(
        PROMPT, max_new_tokens=8, details=True, do_sample=True, seed=3, top_n_tokens=2
    )
    assert whole.details.finish_reason == "length"
    assert whole.details.generated_tokens == len(whole.details.tokens) == 8
    assert whole.details.seed == 3
    assert "".join(token.text for token in whole.details.tokens) == whole.generated_text
    assert [len(top) for top in whole.details.top_tokens] == [2] * 8
    stream = [
        *client.text_generation(
            PROMPT, max_new_tokens=8, details=True, stream=True, do_sample=True, seed=3
        )
    ]
    assert "".join(event.token.text for event in stream) == whole.generated_text
    assert [event.index for event in stream] == [*range(1, 9)]
    assert stream[-1].generated_text == whole.generated_text
    assert stream[-1].details.finish_reason == "length"
    assert [event.token.logprob for event in stream] == [t.logprob for t in whole.details.tokens]


def test_stop_sequence_is_kept(client):
    text = client.text_generation(PROMPT, max_new_tokens=24)
    stop = text[8:11]
    found = client.text_generation(PROMPT, max_new_tokens=24, stop=[stop], details=True)
    assert found.generated_text == text[: text.index(stop) + len(stop)]
    assert found.details.finish_reason == "stop_sequence"
    pieces = client.text_generation(PROMPT, max_new_tokens=24, stop=[stop], stream=True)
    assert "".join(pieces) == found.generated_text


def test_control_tokens_in_the_prompt_are_tokens(client, demo):
    def read(text):
        body = {"inputs": text, "parameters": {"max_new_tokens": 1}}
        return int(httpx2.post(f"{demo.url}/generate", json=body).headers["x-prompt-tokens"])

    assert read(f"<s>{PROMPT}") == read(PROMPT) == len(demo.model.tokenizer.encode(PROMPT))
    assert read(f"{PROMPT}</s>") == read(PROMPT) + 1


def test_end_of_a_text_is_not_shown(demo):
    """Complaint 17: "</s>" at the end of a stream; here the text ends at its first token."""
    answer = httpx2.post(
        f"{demo.url}/generate_stream",
        json={"inputs": "a", "parameters": {"grammar": {"type": "regex", "value": "|a"}}},
    )
    last = events(answer)[-1]
    assert "</s>" not in last["generated_text"]
    assert last["details"]["finish_reason"] == "eos_token"


def test_grammars(client):
    schema = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}
    text = client.text_generation(
        PROMPT, max_new_tokens=60, grammar={"type": "json", "value": schema}
    )
    assert isinstance(json.loads(text)["a"], int)
    assert client.text_generation(
        PROMPT, max_new_tokens=9, grammar={"type": "regex", "value": "yes|no"}
    ) in ("yes", "no")


def test_only_answers_that_tell_of_tokens_take_a_pass_for_each(client, demo):
    """Without log-probabilities, what a grammar forces needs no pass of its own."""
    schema = {"type": "object", "properties": {"a_long_name": {"const": "and a long text"}}}
    schema |= {"required": ["a_long_name"], "additionalProperties": False}
    asked = {"max_new_tokens": 60, "grammar": {"type": "json", "value": schema}}

    def steps(**more: bool) -> int:
        before = demo.model.engine.loop.steps
        found = client.text_generation(PROMPT, **asked, **more)
        text = "".join(found) if "stream" in more else getattr(found, "generated_text", found)
        assert json.loads(text) == {"a_long_name": "and a long text"}
        return demo.model.engine.loop.steps - before

    assert steps() < steps(details=True)
    assert steps(details=True) == steps(stream=True)


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"temperature": -1.0}, "`temperature` must be strictly positive"),
        ({"top_p": 1.5}, "`top_p` must be > 0.0 and < 1.0"),
        ({"max_new_tokens": 0}, "`max_new_tokens` must be strictly positive"),
        ({"stop": ["a"] * 5}, "`stop` supports up to 4 stop sequences"),
        ({"top_n_tokens": 6}, "`top_n_tokens` must be >= 0 and <= 5"),
        ({"max_new_tokens": 9999}, "`inputs` tokens + `max_new_tokens` must be <= 512. Given: "),
        ({"watermark": True}, "watermark: expected it left out"),
        ({"grammar": {"type": "xml"}}, "`grammar` must be json or regex"),
        ({"max_new_tokens": "many"}, "Expected"),
    ],
)
def test_refusals(client, demo, parameters, message):
    body = {"inputs": PROMPT, "parameters": parameters}
    answer = httpx2.post(demo.url, json=body)
    assert answer.status_code == 422
    assert answer.json()["error_type"] == "validation"
    assert answer.json()["error"].startswith("Input validation error: ")
    assert message in answer.json()["error"]


def test_client_knows_our_errors(client, monkeypatch, demo):
    with pytest.raises(ValidationError, match="`inputs` cannot be empty"):
        client.text_generation("", max_new_tokens=2)
    monkeypatch.setattr(demo.service.admission, "texts", 9999)
    with pytest.raises(OverloadedError, match="Model is overloaded"):
        client.text_generation(PROMPT, max_new_tokens=2)


def test_temperature_0_and_top_p_1_are_accepted(demo):
    body = {"inputs": PROMPT, "parameters": {"temperature": 0, "top_p": 1, "max_new_tokens": 2}}
    for path in ("", "/generate"):
        assert httpx2.post(demo.url + path, json=body).status_code == 200


def test_info(demo):
    info = httpx2.get(f"{demo.url}/info").json()
    assert info["model_id"] == "seedling-int8"
    assert info["max_total_tokens"] == 512


def test_chat_completion(client):
    answer = client.chat_completion(
        [{"role": "user", "content": "Who?"}], max_tokens=6, seed=1, temperature=0.5
    )
    assert answer.choices[0].message.content
    pieces = client.chat_completion(
        [{"role": "user", "content": "Who?"}], max_tokens=6, seed=1, temperature=0.5, stream=True
    )
    text = "".join(piece.choices[0].delta.content or "" for piece in pieces if piece.choices)
    assert text == answer.choices[0].message.content


def test_notebook(demo, monkeypatch):
    """The gradio program's own function, with the settings of its sliders."""
    monkeypatch.setenv("SERVER", demo.url)
    spec = importlib.util.spec_from_file_location("gradio_chat", EXAMPLE)
    chat = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(chat)
    for temperature, top_p, penalty in ((0.9, 0.9, 1.2), (0.0, 1.0, 1.0)):
        said = [["a", "b"]]
        grown = [*chat.generate("Who?", said, "Be brief", temperature, 20, top_p, penalty)]
        assert grown
        assert all(b.startswith(a) for a, b in itertools.pairwise(grown))
        assert "</s>" not in grown[-1]
    as_gradio_6_has_it = [
        {"role": "user", "content": [{"type": "text", "text": "a"}]},
        {"role": "assistant", "content": "b"},
    ]
    assert chat.format_prompt("c", as_gradio_6_has_it) == chat.format_prompt("c", [["a", "b"]])
