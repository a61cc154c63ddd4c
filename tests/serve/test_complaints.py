"""What users of other servers complain of, by number; none of it happens here.

1 text of a client that left goes on; 2 a queued client's leaving ends another's text; 3 leaving
waits for the prompt; 4 a long prompt stops all streams; 5 the context is divided by the slots; 6
answers leak; 7 a dead engine looks alive; 8 load changes texts; 9 the prefix cache changes texts;
10 it stops working; 11 it is tied to slots; 12 it misses the last answer; 13 no limit of the
queue; 14 429 without a time; 15 prompts are cut; 16 too long is a 500; 17 stop strings are
missed; 18 temperature 0 is refused; 19 schemas are not enforced; 20 arguments are no text; 21 the
usage chunk is odd; 22 half emoji; 23 endless texts; 24 fields are ignored; 25 prompts of others
can be read.
"""

from __future__ import annotations

import json
import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event

import httpx2
import pytest
from served_models import serve, wait_for
from tiny_models import CONFIGS, write_source

import cpumix
from cpumix.engine.scheduler import MIXED_ROWS

pytestmark = pytest.mark.slow
ELSEWHERE = {
    1: "test_load.py: test_client_that_leaves_while_its_text_is_written",
    2: "test_load.py: test_client_that_leaves_the_queue_harms_nobody",
    3: "test_load.py: test_client_that_leaves_while_its_prompt_is_read",
    7: "test_load.py: test_dead_engine_fails_all_and_is_told",
    13: "test_load.py: test_full_queue_says_when_to_come_back",
    14: "test_load.py: test_retry_after_is_the_time_that_texts_take",
    16: "test_openai.py: test_too_long_has_its_code",
    17: "test_openai.py: test_stop_is_cut_off_wherever_tokens_end, test_tgi.py: "
    "test_end_of_a_text_is_not_shown",
    18: "test_tgi.py: test_temperature_0_and_top_p_1_are_accepted",
    19: "test_openai.py: test_refused_chat",
    20: "test_openai.py: test_forced_call",
    21: "test_openai.py: test_chat_whole_and_streamed",
    24: "test_openai.py: test_unknown_fields_are_told_and_passed_over",
}


def post(served, path="/v1/completions", **body):
    return httpx2.post(served.url + path, json=body, timeout=120)


def stream(served, **body) -> list[dict]:
    answer = post(served, stream=True, **body)
    assert answer.text.isascii()  # some clients split lines at U+2028
    lines = [line[6:] for line in answer.text.splitlines() if line.startswith("data: ")]
    assert lines.pop() == "[DONE]"
    return [json.loads(line) for line in lines]


def test_every_complaint_has_its_test():
    names = re.findall(r"^def test_((?:\d\d_)+)", Path(__file__).read_text("utf-8"), re.M)
    own = {int(number) for name in names for number in re.findall(r"\d\d", name)}
    assert own | {*ELSEWHERE} == {*range(1, 26)}
    for place in ", ".join(ELSEWHERE.values()).split(", "):
        file, name = place.split(": ")
        assert f"def {name}(" in (Path(__file__).parent / file).read_text()


def test_04_long_prompt_lets_others_write(demo):
    loop, sizes, asked = demo.model.engine.loop, [], Event()

    def note(size: int) -> None:  # on the compute thread
        sizes.append(size)
        asked.wait(60)  # so that the text is being written when the prompt comes

    loop.on_step = note
    try:
        with (
            ThreadPoolExecutor(1) as pool,
            httpx2.stream(
                "POST",
                f"{demo.url}/v1/completions",
                json={"prompt": "And", "max_tokens": 400, "stream": True, "ignore_eos": True},
            ) as first,
        ):
            lines = first.iter_lines()
            next(lines)
            second = pool.submit(post, demo, prompt="sea " * 430, max_tokens=1)
            wait_for(lambda: demo.service.admission.texts == 2)
            asked.set()
            second.result()
            loop.call(lambda: None)  # an answer may arrive before its step is told of
            pieces = sum(size > 1 for size in sizes)  # of the prompt, beside the text
            assert pieces > 430 // MIXED_ROWS
            assert max(sizes) <= MIXED_ROWS
    finally:
        asked.set()
        loop.on_step = None


def test_05_each_text_has_the_whole_context(demo):
    assert demo.model.parallel == 4
    body = {"prompt": "sea " * 440, "max_tokens": 20, "ignore_eos": True}
    with ThreadPoolExecutor(4) as pool:
        answers = [*pool.map(lambda seed: post(demo, seed=seed, **body), range(4))]
    assert [answer.json()["usage"]["completion_tokens"] for answer in answers] == [20] * 4


def test_06_08_load_changes_no_text(demo):
    asked = [
        {"prompt": f"And the {word}", "max_tokens": 24, "temperature": t, "seed": seed}
        for seed, word in enumerate(["king", "sea", "city", "man", "house", "night"])
        for t in (0, 1.0)
    ]

    def text(body):
        return post(demo, **body).json()["choices"][0]["text"]

    alone = [text(body) for body in asked]
    with ThreadPoolExecutor(12) as pool:
        assert [*pool.map(text, asked)] == alone


@pytest.mark.parametrize("others", [0, 5])
def test_09_10_11_cached_prompts_change_no_text(demo, others):
    body = {"prompt": f"It was {others} the sea and the city. " * 30, "max_tokens": 16, "seed": 1}
    first = post(demo, **body).json()
    with ThreadPoolExecutor(5) as pool:  # others come in between, on all slots
        [*pool.map(lambda i: post(demo, prompt=f"{i} men", max_tokens=9), range(others))]
    again = post(demo, **body).json()
    assert again["choices"][0]["text"] == first["choices"][0]["text"]
    prompt = first["usage"]["prompt_tokens"]
    assert again["usage"]["prompt_tokens_details"]["cached_tokens"] == prompt - 1


def test_10_sliding_windows_keep_the_cache(tmp_path):
    config = CONFIGS["window"] | {"max_position_embeddings": 1024}
    source = write_source(tmp_path / "checkpoint", config)
    cpumix.convert(source, target := tmp_path / "window.bin", "int8")
    body = {"prompt": "ab cd ef " * 40, "max_tokens": 8, "seed": 1}
    with cpumix.load(target, parallel=2, threads=1) as model, serve(model) as served:
        first, again = (post(served, **body).json() for _ in range(2))
    assert again["choices"][0]["text"] == first["choices"][0]["text"]
    cached = again["usage"]["prompt_tokens_details"]["cached_tokens"]
    assert cached > first["usage"]["prompt_tokens"] - 2 * 64  # whole blocks


def test_12_next_turn_finds_the_last_one(tiny):
    turns = [{"role": "user", "content": "ab cd ef " * 40}]
    first = post(tiny, "/v1/chat/completions", messages=turns, max_tokens=24, seed=3).json()
    said = first["choices"][0]["message"]["content"]
    turns += [{"role": "assistant", "content": said}, {"role": "user", "content": "go on"}]
    second = post(tiny, "/v1/chat/completions", messages=turns, max_tokens=2).json()
    cached = second["usage"]["prompt_tokens_details"]["cached_tokens"]
    assert cached >= len(tiny.model.tokenizer.encode_chat(turns[:1])) - 8


def test_15_prompts_are_never_cut(demo):
    prompt = "word " * 300
    found = post(demo, prompt=prompt, max_tokens=1).json()["usage"]["prompt_tokens"]
    assert found == len(demo.model.tokenizer.encode(prompt))
    assert post(demo, prompt="word " * 600).status_code == 400


def test_22_emoji_come_whole(demo):
    text = "\U0001f600\u2028é\U0001f468\u200d\U0001f469"
    chunks = stream(demo, prompt="Now:", max_tokens=60, regex=re.escape(text))
    pieces = [chunk["choices"][0]["text"] for chunk in chunks]
    assert "".join(pieces) == text
    assert not any("\ufffd" in piece for piece in pieces)


def test_23_texts_end_with_the_context(tiny):
    body = {"messages": [{"role": "user", "content": "ab"}], "ignore_eos": True}
    answer = post(tiny, "/v1/chat/completions", **body).json()
    assert answer["choices"][0]["finish_reason"] == "length"
    assert answer["usage"]["total_tokens"] == tiny.model.context


@pytest.mark.parametrize("path", ["/slots", "/props", "/v1/responses", "/docs"])
def test_25_nobody_reads_others_prompts(demo, path):
    assert httpx2.get(demo.url + path).status_code == 404
    metrics = httpx2.get(f"{demo.url}/metrics").text
    assert "sea" not in metrics.replace("release", "")


def test_tokenize_and_back(demo):
    ids = demo.model.tokenizer.encode("And they returned")
    found = post(demo, "/tokenize", prompt="And they returned").json()
    assert found == {"count": len(ids), "max_model_len": 512, "tokens": ids}
    assert post(demo, "/detokenize", tokens=ids).json() == {"prompt": "And they returned"}
    chat = post(demo, "/tokenize", messages=[{"role": "user", "content": "Who?"}]).json()
    assert chat["tokens"] == demo.model.tokenizer.encode_chat(
        [{"role": "user", "content": "Who?"}], chat_template="mistral-v1"
    )
    assert "expected one of prompt and messages" in post(demo, "/tokenize").text
    assert "expected ids from 0 to 4095" in post(demo, "/detokenize", tokens=[-1]).text
