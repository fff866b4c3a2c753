"""The official client against a server: what its users do, as JSON on stdout. In vLLM's
environment, which brings the client.

python -m tests.contract.openai_probe URL MODEL KEY PROMPT"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from typing import Any

import openai

ASKED: list[Any] = [{"role": "user", "content": "What does the cat eat?"}]
SCHEMA = {"type": "string", "enum": ["yes", "no"]}  # between whose tokens is room for no space


def probe(client: openai.OpenAI, model: str, prompt: str) -> dict[str, Any]:
    def complete(**more: Any) -> Any:
        given = {"model": model, "prompt": prompt, "max_tokens": 12, "temperature": 0} | more
        return client.completions.create(**given)

    whole = complete(logprobs=0)
    chunks = list(complete(stream=True, stream_options={"include_usage": True}))
    stop = whole.choices[0].text[4:7]
    chat = client.chat.completions.create(
        model=model, messages=ASKED, temperature=0, max_tokens=12, logprobs=True
    )
    with client.chat.completions.create(
        model=model, messages=ASKED, temperature=0, max_tokens=12, stream=True
    ) as stream:
        deltas = [chunk.choices[0].delta.content or "" for chunk in stream]
    again = client.chat.completions.create(
        model=model,
        messages=[*ASKED, chat.choices[0].message, *ASKED],
        temperature=0,
        max_tokens=4,
    )
    sampled = [
        complete(temperature=1.5, seed=seed, max_tokens=24).choices[0].text for seed in (1, 1, 2)
    ]

    def chatted(schema: dict[str, Any]) -> Any:
        form = {"name": "number", "schema": schema, "strict": True}
        return client.chat.completions.create(
            model=model,
            messages=ASKED,
            max_tokens=40,
            response_format={"type": "json_schema", "json_schema": form},  # type: ignore[arg-type]
        )

    formatted = chatted(SCHEMA)
    return {
        "models": [one.id for one in client.models.list()],
        "text": whole.choices[0].text,
        "finish": whole.choices[0].finish_reason,
        "logprobs": whole.choices[0].logprobs.token_logprobs,
        "usage": whole.usage.model_dump(include={"prompt_tokens", "completion_tokens"}),
        "streamed": "".join(chunk.choices[0].text for chunk in chunks if chunk.choices),
        "streamed_usage": chunks[-1].usage.model_dump(
            include={"prompt_tokens", "completion_tokens"}
        ),
        "stop": stop,
        "stopped": complete(stop=[stop]).choices[0].text,
        "chat": chat.choices[0].message.content,
        "chat_logprobs": len(chat.choices[0].logprobs.content),
        "chat_tokens": chat.usage.completion_tokens,
        "chat_streamed": "".join(deltas),
        "second_turn": again.usage.prompt_tokens,
        "first_turn": chat.usage.prompt_tokens,
        "sampled": sampled,
        "formatted": formatted.choices[0].message.content,
        "errors": {
            "long": failed(lambda: complete(max_tokens=100_000)),
            "model": failed(lambda: complete(model="other")),
            "key": failed(client.with_options(api_key="wrong").models.list),
            "schema": failed(lambda: chatted({"type": "string", "pattern": "(?=a)b"})),
            "temperature": failed(lambda: complete(temperature=7)),
        },
    }


def failed(ask: Callable[[], Any]) -> list[Any]:
    """The client's class of error, the status, and the code."""
    try:
        ask()
    except openai.APIStatusError as error:
        return [type(error).__name__, error.status_code, error.code]
    return []


if __name__ == "__main__":
    url, name, key, text = sys.argv[1:]
    client = openai.OpenAI(base_url=url, api_key=key, max_retries=0)
    print(json.dumps(probe(client, name, text)))
