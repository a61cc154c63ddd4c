"""The chat page in a real browser: what people do with it, and what may go wrong."""

from __future__ import annotations

import json
import re

import pytest
from chat_browser import PHONE, Chat, launched, violations
from served_models import held, serve

import cpumix

pytestmark = pytest.mark.slow
QUESTION = "Who returned to the city?"


@pytest.fixture(scope="module")
def browser():
    with launched() as browser:
        yield browser


@pytest.fixture
def open_chat(browser, request):
    """Open pages, each in a profile of its own; at the end, none had a fault or asked elsewhere."""
    chats = []

    def open_page(url, **options):
        chat = Chat(browser.new_context(**options))
        chats.append(chat)
        chat.open(url)
        return chat

    yield open_page
    for chat in chats:
        chat.context.close()
        assert chat.faults == []
        assert len(chat.hosts) == 1


@pytest.fixture
def chat(open_chat, demo):
    chat = open_chat(demo.url)
    chat.set(max_tokens=12, temperature=0)
    return chat


def button(chat, name):
    return chat.page.get_by_role("button", name=name, exact=True)


def test_conversation_is_kept(chat):
    assert chat.page.locator("#ideas button").count() == 4
    chat.shoot("empty-light")
    first = chat.answer(QUESTION)
    assert first.strip()
    assert re.match(
        r"12 tokens · [\d.]+ tokens/s", chat.page.locator("article .about").last.inner_text()
    )
    chat.shows("context", r"^Context \d+ % full$")
    chat.answer("And who left?")
    before = chat.texts()
    assert len(before) == 4
    chat.reload()
    chat.page.wait_for_selector("#model:not(:empty)", state="attached")
    assert chat.texts() == before
    assert chat.page.title() == f"{QUESTION} · cpumix"
    chat.shoot("conversation-light")


def test_stop_and_continue(chat, demo):
    chat.set(max_tokens=400)
    with held(demo, steps=8):
        chat.ask(QUESTION)
        chat.page.locator("article.assistant .text", has_text=re.compile(r"\w")).wait_for()
        chat.shows("status", r"^Writing: \d+ tokens")
        assert chat.page.locator("#log").get_attribute("aria-busy") == "true"
        chat.page.get_by_label("Message", exact=True).fill("typed meanwhile")
        chat.page.keyboard.press("Enter")  # not while it writes; and it is not lost
        chat.page.keyboard.press("Escape")
        chat.wait()
    chat.shows("said", "^Stopped$")
    begun = chat.texts()[-1]
    assert begun
    assert "stopped" in chat.page.locator("article .about").last.inner_text()
    assert chat.page.locator("#box").input_value() == "typed meanwhile"
    chat.set(max_tokens=8)
    button(chat, "Continue the answer").click()
    chat.shows("said", "^Done")
    longer = chat.texts()[-1]
    assert longer.startswith(begun.rstrip())
    assert len(longer) > len(begun)
    assert len(chat.texts()) == 2


def test_edited_messages_and_new_answers_are_branches(chat):
    old = chat.answer(QUESTION)
    chat.page.locator("#box").press("ArrowUp")
    field = chat.page.get_by_label("Edit the message")
    assert field.input_value() == QUESTION
    field.fill("Who left it?")
    field.press("Enter")
    chat.page.get_by_text("Who left it?").first.wait_for()
    chat.wait()
    assert chat.texts()[0] == "Who left it?"
    assert chat.page.get_by_role("img", name="Version 2 of 2").count() == 1
    button(chat, "Previous version").click()
    assert chat.texts() == [QUESTION, old]
    assert chat.page.get_by_label("Next version").evaluate("it => it === document.activeElement")
    button(chat, "Answer again").click()
    chat.page.get_by_role("img", name="Version 2 of 2").wait_for()
    chat.wait()
    chat.page.locator("article.assistant").get_by_label("Previous version").click()
    assert chat.texts() == [QUESTION, old]
    chat.reload()
    chat.page.wait_for_selector("article.assistant")
    assert chat.texts() == [QUESTION, old]
    assert chat.page.get_by_role("img", name=re.compile("Version 1 of 2")).count() == 2


def test_conversations_are_found_renamed_deleted_and_moved(chat, open_chat, demo, tmp_path):
    page, items = chat.page, chat.page.locator("#list li")
    chat.answer(QUESTION)
    page.keyboard.press("Control+Shift+O")
    assert chat.texts() == []
    chat.answer("What does the sea say?")
    assert items.count() == 2
    page.keyboard.press("Control+k")
    page.keyboard.type("SEA say")
    assert items.count() == 1
    page.keyboard.press("Escape")
    assert items.count() == 2
    button(chat, "Rename “What does the sea say?”").click()
    page.get_by_label("New name").fill("Of the sea")
    page.keyboard.press("Enter")
    chat.shows("title", "^Of the sea$")
    page.get_by_role("button", name=QUESTION, exact=True).click()
    assert chat.texts()[0] == QUESTION
    button(chat, f"Delete “{QUESTION}”").click()
    assert items.count() == 1
    assert chat.texts() == []
    button(chat, "Undo").click()
    assert items.count() == 2
    assert chat.texts()[0] == QUESTION
    with page.expect_download() as download:
        button(chat, "Export all").click()
    download.value.save_as(kept := tmp_path / "kept.json")
    assert json.loads(kept.read_text("utf-8"))["format"] == "cpumix-conversations"
    other = open_chat(demo.url)
    other.page.locator("#file").set_input_files(kept)
    other.shows("notice", "^Imported 2")
    assert other.page.locator("#list li").all_inner_texts() == items.all_inner_texts()
    other.page.locator("#file").set_input_files(kept)
    other.shows("notice", "^Imported 0; 2 were here already")
    other.page.get_by_role("button", name="Of the sea", exact=True).click()
    assert other.texts()[0] == "What does the sea say?"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "This file is no JSON"),
        ("{}", "This file holds no conversations"),
        ('[{"role": "user", "content": 1}]', "A conversation in this file is damaged"),
        (
            json.dumps(
                {
                    "format": "cpumix-conversations",
                    "conversations": [
                        {
                            "id": "a",
                            "title": "",
                            "created": 0,
                            "changed": 0,
                            "first": 0,
                            "messages": [{"parent": 0, "next": 0, "role": "user", "content": ""}],
                        }
                    ],
                }
            ),
            "A conversation in this file is damaged",
        ),
    ],
)
def test_files_that_hold_no_conversations(chat, text, message):
    file = {"name": "other.json", "mimeType": "application/json", "buffer": text.encode()}
    chat.page.locator("#file").set_input_files(file)
    chat.shows("error", f"^{message}")
    assert chat.page.locator("#list li").count() == 0


def test_what_cpumix_chat_saves_can_be_imported(chat):
    saved = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Hello"},
        {"role": "assistant", "content": "Hi"},
    ]
    file = {"name": "talk.json", "mimeType": "application/json"}
    chat.page.locator("#file").set_input_files({**file, "buffer": json.dumps(saved).encode()})
    chat.shows("notice", "^Imported 1")
    chat.page.get_by_role("button", name="Hello", exact=True).click()
    assert chat.texts() == ["Hello", "Hi"]


def test_settings(chat, demo):
    page = chat.page
    page.locator("#open-settings").click()
    ranges = {
        name: [page.locator(f"#{name}").get_attribute(part) for part in ("min", "max", "step")]
        for name in ("temperature", "max_tokens", "top_p", "repetition_penalty")
    }
    assert ranges == {
        "temperature": ["0", "1", "0.05"],
        "max_tokens": ["0", "1048", "64"],
        "top_p": ["0.05", "1", "0.05"],
        "repetition_penalty": ["1", "2", "0.05"],
    }
    defaults = demo.service.defaults
    page.get_by_role("button", name="Reset to defaults").click()
    assert float(page.locator("#temperature-box").input_value()) == defaults.temperature
    assert float(page.locator("#top_p-box").input_value()) == defaults.top_p
    page.locator("#max_tokens").fill("0")
    assert page.locator("#max_tokens-box").input_value() == "1"  # no answer of 0 tokens
    page.locator("#max_tokens").press("ArrowRight")
    assert page.locator("#max_tokens").get_attribute("aria-valuetext") == "64"
    page.locator("#temperature-box").fill("7")
    page.keyboard.press("Tab")
    assert page.locator("#temperature-box").input_value() == "2"
    page.get_by_role("button", name="Reset to defaults").click()
    assert float(page.locator("#temperature-box").input_value()) == defaults.temperature
    assert page.locator("#max_tokens-box").input_value() == "256"
    chat.shoot("settings-light")
    page.get_by_label("Dark", exact=True).check()
    button(chat, "Done").click()
    assert page.evaluate("getComputedStyle(document.body).colorScheme") == "dark"
    chat.set(system="Be brief.", max_tokens=3, repetition_penalty=1.25)
    page.reload()
    page.wait_for_selector("#model:not(:empty)", state="attached")
    assert page.evaluate("getComputedStyle(document.body).colorScheme") == "dark"
    with page.expect_request("**/v1/chat/completions") as request:
        chat.answer(QUESTION)
    assert request.value.post_data_json == {
        "max_tokens": 3,
        "repetition_penalty": 1.25,
        "messages": [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": QUESTION},
        ],
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    chat.shoot("conversation-dark")


def test_prompt_progress(chat, monkeypatch):
    monkeypatch.setattr("cpumix.serve.writing.NEWS", 0.0)
    chat.page.evaluate(
        """() => {
            window.seen = [];
            const status = document.getElementById("status");
            new MutationObserver(() => window.seen.push(status.textContent))
                .observe(status, { childList: true });
        }"""
    )
    chat.answer("the sea and the king " * 60)
    seen = chat.page.evaluate("window.seen")
    assert any(re.match(r"Reading the prompt: \d+ of \d+ tokens$", text) for text in seen)


def test_markdown_is_shown_and_copied(chat):
    text = "**bold**\n\n| a | b |\n|---|--:|\n| 1 | 2 |\n\n```python\nprint(1)\n```\n\n[x](https://a.example/)"
    said = [{"role": "user", "content": QUESTION}, {"role": "assistant", "content": text}]
    show(chat, said)
    page = chat.page
    assert page.locator("article strong").inner_text() == "bold"
    assert page.locator("article td.align-right").inner_text() == "2"
    assert page.locator("article a").get_attribute("rel") == "noopener noreferrer"
    chat.context.grant_permissions(["clipboard-read", "clipboard-write"])
    button(chat, "Copy the code").click()
    chat.shows("said", "^Copied$")
    assert page.evaluate("navigator.clipboard.readText()") == "print(1)\n"
    button(chat, "Copy the message").last.click()
    assert page.evaluate("navigator.clipboard.readText()") == text


def show(chat, messages):
    """Import a conversation and open it."""
    file = {"name": "a.json", "mimeType": "application/json"}
    chat.page.locator("#file").set_input_files({**file, "buffer": json.dumps(messages).encode()})
    chat.shows("notice", "^Imported 1")
    if not chat.page.locator("#sidebar").is_visible():
        button(chat, "Conversations").click()
    chat.page.locator("#list .open").first.click()
    chat.page.wait_for_selector("article.assistant")


def test_what_a_model_writes_is_no_program(chat):
    evil = (
        "<img src=x onerror=window.bad=1><script>window.bad=1</script> **bold** "
        "[a](javascript:window.bad=1) ![b](https://elsewhere.example/b.png) "
        "<form action=//elsewhere.example><input></form> <style>body { display: none }</style>"
    )
    show(chat, [{"role": "user", "content": evil}, {"role": "assistant", "content": evil}])
    chat.page.wait_for_selector("article.assistant strong")
    assert chat.page.evaluate("window.bad") is None
    found = "article :is(img, script, form, input, style, iframe, a[href^=javascript])"
    assert chat.page.locator(found).count() == 0


def test_key(open_chat, browser, chat_file):
    with cpumix.load(chat_file, threads=1) as model, serve(model, keys=["right"]) as served:
        chat = Chat(browser.new_context())
        page = chat.page
        page.goto(served.url)
        page.get_by_label("Key", exact=True).fill("wrong")
        page.keyboard.press("Enter")
        chat.shows("wrong-key", "^That key is not one of this server's.$")
        chat.shoot("key-light")
        page.keyboard.press("Escape")
        chat.shows("error", "^This server asks for a key.")
        button(chat, "Enter the key").click()
        page.get_by_label("Key", exact=True).fill("right")
        button(chat, "Unlock").click()
        chat.shows("model", "^tiny-chat$")
        chat.shows("error", "^$")
        page.reload()
        chat.shows("model", "^tiny-chat$")
        chat.context.close()
        assert chat.faults == []


REFUSE = """{ throw new DOMException("Access is denied for this document.", "SecurityError"); }"""
STORES = ["localStorage", "sessionStorage", "indexedDB", "BroadcastChannel"]
BLOCKED = f"""for (const name of {STORES}) {{
    Object.defineProperty(window, name, {{ get() {REFUSE} }});
}}"""
FULL = f"Storage.prototype.setItem = () => {REFUSE};"


@pytest.mark.parametrize("storage", [BLOCKED, FULL], ids=["blocked", "full"])
def test_browser_that_keeps_nothing(browser, chat_file, storage):
    with cpumix.load(chat_file, threads=1) as model, serve(model, keys=["right"]) as served:
        chat = Chat(browser.new_context())
        page = chat.page
        page.add_init_script(storage)
        page.goto(served.url)
        page.get_by_label("Key", exact=True).fill("right")
        page.keyboard.press("Enter")
        chat.shows("model", "^tiny-chat$")
        if storage == BLOCKED:
            chat.shows("notice", "^This browser keeps no conversations for this page")
        chat.set(max_tokens=3)
        chat.answer(QUESTION)
        page.locator("#open-settings").click()
        page.get_by_label("Dark", exact=True).check()
        button(chat, "Done").click()
        assert page.evaluate("getComputedStyle(document.body).colorScheme") == "dark"
        button(chat, "New chat").click()
        page.get_by_role("button", name=QUESTION, exact=True).click()
        assert chat.texts()[0] == QUESTION
        chat.context.close()
        assert chat.faults == []


def test_dead_server(open_chat, chat_file):
    with cpumix.load(chat_file, threads=1) as model, serve(model) as served:
        chat = open_chat(served.url)
    chat.ask("Anybody there?")
    chat.shows("error", "^The server does not answer. Is it running?")
    chat.shoot("dead-light")
    assert chat.texts() == ["Anybody there?"]
    assert chat.page.get_by_role("button", name="Send").is_visible()
    button(chat, "Try again").click()
    chat.shows("error", "^The server does not answer")


def test_server_that_dies_in_an_answer(chat):
    body = 'data: {"choices": [{"delta": {"content": "And then"}}]}\n\n'
    answer = {"status": 200, "content_type": "text/event-stream", "body": body}
    chat.page.route("**/v1/chat/completions", lambda route: route.fulfill(**answer))
    chat.ask(QUESTION)
    chat.shows("error", "^The server went away in the middle of the answer")
    assert chat.texts() == [QUESTION, "And then"]
    chat.page.unroute("**/v1/chat/completions")
    button(chat, "Try again").click()
    chat.shows("said", "^Done. And then")
    assert chat.texts()[-1] != "And then"


def test_busy_server_is_asked_again_when_it_says(chat):
    refusals = iter([True])

    def refuse_once(route):
        if next(refusals, False):
            route.fulfill(status=429, headers={"retry-after": "1"}, json={"error": {"message": ""}})
        else:
            route.continue_()

    chat.page.route("**/v1/chat/completions", refuse_once)
    assert chat.answer(QUESTION)
    chat.shows("said", "^Done")


def test_too_long_for_the_context(chat):
    chat.page.locator("#box").fill("word " * 600)
    chat.page.get_by_role("button", name="Send").click()
    chat.shows("error", "^This model's maximum context length is 512 tokens")
    assert len(chat.texts()) == 1


def test_two_conversations_are_answered_at_once(chat, demo):
    chat.set(max_tokens=200)
    with held(demo, steps=8):
        chat.ask(QUESTION)
        chat.shows("status", "^Writing")
        chat.page.keyboard.press("Control+Shift+O")
        chat.set(max_tokens=12)
    assert chat.answer("What does the sea say?").strip()
    chat.page.get_by_role("button", name=re.compile(f"^{re.escape(QUESTION)}")).first.click()
    chat.wait()
    assert len(chat.texts()[1]) > 100


def test_model_without_a_template_goes_on_with_texts(open_chat, demo_model):
    with cpumix.load(demo_model, threads=1, context=256) as model, serve(model) as served:
        chat = open_chat(served.url)
        chat.shows("greeting", "^Begin a text, and the model goes on$")
        chat.set(max_tokens=8, temperature=0)
        begin = "And they returned to the city"
        first = chat.answer(begin)
        button(chat, "Continue the answer").click()
        chat.page.wait_for_selector("#stop:not([hidden])", state="attached")
        chat.wait()
        whole = "".join(model.generate(begin, max_tokens=16, temperature=0, raw=True))
        assert chat.page.locator(".assistant .text").evaluate("it => it.textContent") == whole
        assert whole.startswith(first)
        chat.shoot("texts-light")


def wait_for_focus(chat, name: str) -> None:
    active = "document.activeElement"
    chat.page.wait_for_function(
        f"name => ({active}.id || {active}.getAttribute('aria-label')) === name", arg=name
    )


def test_keyboard_only(chat):
    press, page = chat.page.keyboard.press, chat.page
    page.locator("#box").focus()
    page.keyboard.type("Who returned")
    press("Shift+Enter")
    page.keyboard.type("to the city?")
    press("Enter")
    page.locator("article.assistant").wait_for(state="attached")
    chat.wait()
    assert chat.texts()[0] == "Who returned\nto the city?"
    wait_for_focus(chat, "box")
    press("F6")
    wait_for_focus(chat, "log")
    press("Tab")
    wait_for_focus(chat, "Copy the message")
    press("Tab")
    wait_for_focus(chat, "Edit the message")
    press("Enter")
    page.keyboard.type(" Or not?")
    press("Escape")  # the text is as it was
    wait_for_focus(chat, "Edit the message")
    press("F6")
    wait_for_focus(chat, "box")
    press("Control+b")
    assert page.locator("#sidebar").get_attribute("inert") is not None
    press("Control+b")
    wait_for_focus(chat, "new")
    press("Control+k")
    wait_for_focus(chat, "search")
    press("Enter")
    wait_for_focus(chat, "box")
    press("Control+Shift+O")
    assert chat.texts() == []
    wait_for_focus(chat, "box")
    page.reload()
    page.wait_for_selector("#model:not(:empty)", state="attached")
    skip = page.get_by_role("link", name="Skip to the message box")
    assert skip.evaluate("it => it === document.querySelector('a, button, input')")
    skip.focus()
    assert skip.bounding_box()["x"] >= 0
    press("Enter")
    wait_for_focus(chat, "box")


def test_enter_that_ends_a_character_does_not_send(chat):
    chat.page.locator("#box").fill("日本")
    chat.page.locator("#box").dispatch_event("keydown", {"key": "Enter", "isComposing": True})
    assert chat.texts() == []


def test_answers_are_read_out_once(chat):
    answer = chat.answer(QUESTION)
    log = chat.page.get_by_role("log")
    assert log.get_attribute("aria-live") == "off"
    chat.shows("said", "^Done. ")
    said = chat.page.locator("#said").inner_text()
    assert said.split() == ["Done.", *answer.split()]
    assert log.get_attribute("aria-busy") == "false"


def test_phone(open_chat, demo):
    chat = open_chat(demo.url, **PHONE)
    page = chat.page
    chat.set(max_tokens=12)
    page.locator("#box").fill("Who returned")
    page.keyboard.press("Enter")  # breaks the line, as there is no Shift
    assert page.locator("#box").input_value() == "Who returned\n"
    page.get_by_role("button", name="Send").tap()
    page.locator("article.assistant").wait_for(state="attached")
    chat.wait()
    chat.shoot("conversation-phone")
    wide = "document.documentElement.scrollWidth > window.innerWidth"
    assert page.evaluate(wide) is False
    assert not page.locator("#sidebar").is_visible()
    page.get_by_role("button", name="Conversations").tap()
    page.get_by_role("button", name="Who returned", exact=True).wait_for()
    chat.shoot("sidebar-phone")
    page.get_by_role("button", name="New chat").tap()
    assert not page.locator("#veil").is_visible()
    assert chat.texts() == []
    chat.shoot("empty-phone")


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("device", [{}, PHONE], ids=["desk", "phone"])
def test_axe_finds_nothing(open_chat, demo, scheme, device):
    chat = open_chat(demo.url, color_scheme=scheme, reduced_motion="reduce", **device)

    def check():
        assert violations(chat.page) == ""

    check()
    text = "# One\n\n`two` **three** [four](https://a.example)\n\n```\nfive\n```\n\n> six"
    text += "\n\n|a|\n|-|\n|7|"
    said = {"role": "assistant", "content": text}
    if device:
        chat.page.get_by_role("button", name="Conversations").tap()
        check()
    show(chat, [{"role": "user", "content": QUESTION}, said])
    check()
    chat.page.locator("#open-settings").click()
    check()


def test_answer_without_words_is_told(chat):
    end = {"choices": [{"delta": {}, "finish_reason": "stop"}]}
    body = f"data: {json.dumps(end)}\n\ndata: [DONE]\n\n"
    answer = {"status": 200, "content_type": "text/event-stream", "body": body}
    chat.page.route("**/v1/chat/completions", lambda route: route.fulfill(**answer))
    chat.ask(QUESTION)
    chat.shows("error", "^The model ended its answer before the first word")
    assert chat.texts() == [QUESTION]


def test_other_tabs_see_what_is_written(chat, demo):
    other = Chat(chat.context)
    other.open(demo.url)
    assert other.texts() == []
    chat.answer(QUESTION)
    other.page.get_by_role("button", name=QUESTION, exact=True).click()
    assert other.texts() == chat.texts()
    chat.answer("And who left?")
    other.page.get_by_text("And who left?").wait_for()
    button(other, f"Delete “{QUESTION}”").click()
    chat.page.locator("#empty").wait_for()
    assert chat.page.locator("#list li").count() == 0
    assert other.faults == []


def test_from_another_machine_without_tls(open_chat, demo):
    """There the browser has no clipboard, and no random ids."""
    chat = open_chat(demo.url.replace("127.0.0.1", "0.0.0.0"))
    assert chat.page.evaluate("isSecureContext") is False
    chat.set(max_tokens=4)
    chat.answer(QUESTION)
    button(chat, "Copy the message").first.click()
    chat.shows("said", "^Copied$")
    chat.page.locator("#box").press("Control+v")
    assert chat.page.locator("#box").input_value() == QUESTION
