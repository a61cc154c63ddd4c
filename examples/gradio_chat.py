"""The chat of many a notebook: gradio in front, Mixtral behind an inference server.

pip install gradio huggingface_hub
cpumix serve mixtral.bin &
python examples/gradio_chat.py
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

from huggingface_hub import InferenceClient

client = InferenceClient(os.environ.get("SERVER", "http://localhost:8080"))


def as_pairs(history: list[Any]) -> list[tuple[str, str]]:
    """Return what was said as (question, answer): pairs before gradio 6, since then messages."""
    if not any(isinstance(turn, dict) for turn in history):
        return [(question, answer) for question, answer in history]
    texts = [
        content if isinstance(content := turn["content"], str) else content[0]["text"]
        for turn in history
    ]
    return list(zip(texts[::2], texts[1::2], strict=False))


def format_prompt(message: str, history: list[Any]) -> str:
    """Write a conversation the way Mixtral was trained on."""
    prompt = "<s>"
    for user_prompt, bot_response in as_pairs(history):
        prompt += f"[INST] {user_prompt} [/INST] {bot_response}</s> "
    return prompt + f"[INST] {message} [/INST]"


def generate(
    prompt: str,
    history: list[Any],
    system_prompt: str = "",
    temperature: float = 0.9,
    max_new_tokens: int = 256,
    top_p: float = 0.95,
    repetition_penalty: float = 1.0,
) -> Iterator[str]:
    """Yield the answer as it grows."""
    stream = client.text_generation(
        format_prompt(f"{system_prompt}, {prompt}", history),
        temperature=max(float(temperature), 1e-2),
        max_new_tokens=max_new_tokens,
        top_p=float(top_p),
        repetition_penalty=repetition_penalty,
        do_sample=True,
        seed=42,
        stream=True,
        details=True,
        return_full_text=False,
    )
    output = ""
    for response in stream:
        output += response.token.text
        yield output


def main() -> None:
    """Show the page."""
    import gradio as gr

    sliders = [
        gr.Textbox(label="System Prompt", max_lines=1, interactive=True),
        gr.Slider(0.0, 1.0, 0.9, step=0.05, label="Temperature"),
        gr.Slider(1, 1048, 256, step=64, label="Max new tokens"),
        gr.Slider(0.0, 1, 0.9, step=0.05, label="Top-p (nucleus sampling)"),
        gr.Slider(1.0, 2.0, 1.2, step=0.05, label="Repetition penalty"),
    ]
    gr.ChatInterface(generate, additional_inputs=sliders, title="Mixtral 8x7B").launch()


if __name__ == "__main__":
    main()
