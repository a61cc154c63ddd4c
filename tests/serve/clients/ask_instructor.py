"""What instructor does with a server, in its own way (a forced call) and by JSON schema."""

import json
import sys

import instructor
import openai
from pydantic import BaseModel


class City(BaseModel):
    """A city."""

    name: str
    size: int


client = openai.OpenAI(base_url=f"{sys.argv[1]}/v1", api_key="none")
asked = {
    "model": "demo",
    "messages": [{"role": "user", "content": "Which city?"}],
    "max_tokens": 120,
    "seed": 1,
    "response_model": City,
    "max_retries": 0,
}
cities = [
    instructor.from_openai(client, **mode).chat.completions.create(**asked).model_dump()
    for mode in ({}, {"mode": instructor.Mode.JSON_SCHEMA})
]
print(json.dumps({"cities": cities}))
