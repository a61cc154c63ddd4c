"""Conversations: turns, what is left out of them, and their file."""

from __future__ import annotations

from cpumix.conversation import Conversation, messages_from_json, messages_to_json


def conversation(turns: int) -> Conversation:
    made = Conversation("Be brief.")
    for i in range(turns):
        made.ask(f"question {i}")
        made.answer(f"answer {i}")
    return made


def test_messages_come_in_order_and_survive_a_file():
    made = conversation(2)
    texts = [message["content"] for message in made.messages]
    assert texts == ["Be brief.", "question 0", "answer 0", "question 1", "answer 1"]
    read = Conversation.from_messages(messages_from_json(messages_to_json(made.messages), "x"))
    assert (read.system, read.turns) == (made.system, made.turns)
    assert messages_from_json('{"messages": ' + messages_to_json(made.messages) + "}", "x")


def test_tool_results_belong_to_the_turn_of_their_question():
    messages = [
        {"role": "user", "content": "a"},
        {"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": {}}}]},
        {"role": "tool", "content": "1"},
        {"role": "assistant", "content": "b"},
        {"role": "user", "content": "c"},
    ]
    assert [len(turn) for turn in Conversation.from_messages(messages).turns] == [4, 1]


def test_the_oldest_turns_are_left_out_and_never_the_system_text_or_the_last():
    made = conversation(4)
    assert made.leave_out(lambda: len(made.visible) <= 5) == 2
    assert [m["content"] for m in made.visible][:2] == ["Be brief.", "question 2"]
    assert made.leave_out(lambda: True) == 0
    assert made.leave_out(lambda: False) == 1
    assert [m["content"] for m in made.visible] == ["Be brief.", "question 3", "answer 3"]
    assert len(made.messages) == 9
    made.undo()
    assert [m["content"] for m in made.visible] == ["Be brief.", "question 2", "answer 2"]
    made.reset()
    assert (made.messages, made.left_out) == ([{"role": "system", "content": "Be brief."}], 0)


def test_undo_and_another_answer():
    made = conversation(2)
    made.take_back_answer()
    assert made.question == "question 1"
    assert made.messages[-1] == {"role": "user", "content": "question 1"}
    made.undo()
    made.undo()
    assert made.question is None
