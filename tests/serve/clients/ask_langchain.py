"""What langchain-openai does with a server, as JSON."""

import json
import sys

from langchain_openai import ChatOpenAI
from pydantic import BaseModel


class City(BaseModel):
    """A city."""

    name: str
    size: int


chat = ChatOpenAI(
    base_url=f"{sys.argv[1]}/v1", api_key="none", model="demo", temperature=0, max_tokens=60, seed=1
)
whole = chat.invoke("Who returned to the city?")
found = chat.with_structured_output(City).invoke("Which city?")
print(
    json.dumps(
        {
            "whole": whole.content,
            "streamed": "".join(
                chunk.content for chunk in chat.stream("Who returned to the city?")
            ),
            "tokens": whole.usage_metadata["output_tokens"],
            "city": found.model_dump(),
        }
    )
)
