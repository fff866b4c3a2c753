"""What a recipe has that leaves out a section: the ready recipes' settings, by the number of the
model's parameters.

Limits are by the precision of the weights. A model whose `model.parameters` is not given is held to
the limits of the largest, which are the strictest: what is not known must not make a verdict
milder."""

from __future__ import annotations

from typing import Any, NamedTuple

EIGHT_BITS, FOUR_BITS = (
    ("int8", "fp8"),
    ("int4", "nf4", "mxfp4", "int2"),
)  # what is asked of 4 bits is asked of fewer


class Usual(NamedTuple):
    """Of models of fewer than `below` parameters. `like`: the recipe that all is taken from.
    `samples` of `tokens` are for `quantgate init`: calibration is no section that can be left out.
    `limits`: for 16, 8 and 4 bits."""

    below: float
    like: str
    samples: int
    tokens: int
    window: int
    windows: int | None
    positions: int
    tasks: dict[str, int | str]
    kv_cache_gib: int
    limits: dict[str, tuple[float, float, float]]


# A model of this size is far from chance at these tasks, and at chance on MMLU
# (docs/real-models.md).
SMALL_TASKS: dict[str, int | str] = {"lambada_openai": 2000, "arc_easy": 2000, "piqa": "all"}
LARGE_TASKS: dict[str, int | str] = {"mmlu": 2500, "hellaswag": 2500, "arc_challenge": "all"}
BY_SIZE = (
    Usual(
        3e8,
        "smollm2-135m-instruct",
        128,
        512,
        1024,
        150,
        4096,
        SMALL_TASKS,
        1,
        {
            "perplexity_ratio": (1.005, 1.014, 1.25),
            "mean_kl": (0.01, 0.012, 0.3),
            "p99_kl": (0.1, 0.2, 2.5),
            "top1_agreement": (0.95, 0.92, 0.7),
            "accuracy_drop": (0.01, 0.01, 0.05),
            "task_drop": (0.03, 0.03, 0.1),
        },
    ),
    Usual(
        3e9,
        "qwen2.5-0.5b-instruct",
        256,
        1024,
        1024,
        150,
        4096,
        SMALL_TASKS,
        2,
        {
            "perplexity_ratio": (1.005, 1.01, 1.15),
            "mean_kl": (0.01, 0.01, 0.2),
            "p99_kl": (0.1, 0.2, 2.0),
            "top1_agreement": (0.95, 0.93, 0.78),
            "accuracy_drop": (0.01, 0.01, 0.03),
            "task_drop": (0.03, 0.03, 0.07),
        },
    ),
    Usual(
        float("inf"),
        "qwen3-8b",
        512,
        1024,
        2048,
        None,
        8192,
        LARGE_TASKS,
        8,
        {
            "perplexity_ratio": (1.005, 1.005, 1.05),
            "mean_kl": (0.005, 0.01, 0.08),
            "p99_kl": (0.1, 0.1, 1.0),
            "top1_agreement": (0.96, 0.95, 0.88),
            "accuracy_drop": (0.01, 0.01, 0.01),
            "task_drop": (0.03, 0.03, 0.03),
        },
    ),
)
COMPARED = 150  # windows, in which damage in 2 % of them shows (gate.rare)
SECTIONS = ("evaluate", "gate", "serve", "benchmark")
LONGEST = 4096  # tokens of a request


def usual(parameters: int | None) -> Usual:
    return (
        BY_SIZE[-1]
        if parameters is None
        else next(size for size in BY_SIZE if parameters < size.below)
    )


def sentence(parameters: int | None, sections: list[str]) -> str:
    """Where the settings of the sections that a recipe leaves out come from."""
    size = usual(parameters)
    of = f"below {size.below / 1e9:g} billion parameters"
    if size is BY_SIZE[-1]:
        of = f"of {BY_SIZE[-2].below / 1e9:g} billion parameters or more"
    unknown = ", the strictest, since model.parameters is not given" if parameters is None else ""
    return (
        f"Left out, and as usual for models {of}{unknown} (see recipes/{size.like}.yaml):"
        f" {', '.join(sections)}"
    )


def left_out(data: dict[str, Any]) -> list[str]:
    """The sections with a default that a recipe, as it was read, does not have."""
    return [section for section in SECTIONS if section not in data]


def filled(data: dict[str, Any]) -> dict[str, Any]:
    """The recipe with every section; what it has is as it was."""
    size, longest = (
        usual(_number(data, "model", "parameters")),
        _number(data, "serve", "max_model_len") or LONGEST,
    )
    window = (
        size.window if size.windows or "gate" not in data else BY_SIZE[0].window
    )  # a gate of its own has the usual gate.rare
    whole = {
        "evaluate": _evaluate(size._replace(window=window), longest),
        "gate": _gate(size),
        "serve": serve(size, LONGEST),
        "benchmark": _benchmark(longest),
    }
    return data | {section: whole[section] for section in left_out(data)}


EXAMPLE_MODEL = {
    "repo": "HuggingFaceTB/SmolLM2-135M-Instruct",
    "revision": "12fd25f77366fa6b3b4b768ec3050bf629380bac",
    "parameters": 134515008,
}


def _example() -> dict[str, Any]:
    """Of every key that is required a value that works, for messages."""
    whole = filled(
        {
            "model": EXAMPLE_MODEL,
            "calibration": {"prompts": "hh-rlhf", "samples": 128, "tokens": 512},
            "variants": {
                "ov-bf16": {"engine": "openvino"},
                "ov-int8": {"engine": "openvino", "quantizer": "openvino", "weights": "int8"},
            },
        }
    )
    used = ("bf16", "int8", "int4")
    whole["gate"] |= {key: {w: whole["gate"][key][w] for w in used} for key in BY_SIZE[0].limits}
    whole["benchmark"]["price"] = {"per_hour": 0.5, "currency": "USD"}
    return whole


def limit(parameters: int | None, key: str, weights: str) -> float:
    """What a model of this size is usually held to; of a speed-up nothing is usual, and 1.2 an
    example."""
    usual_limits = _gate(usual(parameters)).get(key, {})
    return float(usual_limits.get(weights, 1.2))


def _number(data: dict[str, Any], section: str, key: str) -> int | None:
    """A number that the recipe gives; None for what is none, which is said where it is parsed."""
    value = data[section].get(key) if isinstance(data.get(section), dict) else None
    return value if isinstance(value, int) and value > 0 else None


def _evaluate(size: Usual, longest: int) -> dict[str, Any]:
    """Windows of 2048 tokens are those of the GPTQ (arXiv 2210.17323) and AWQ (arXiv 2306.00978)
    papers."""
    perplexity = {"texts": ["wikitext-2"], "window": min(size.window, longest // 2)}
    return {
        "perplexity": perplexity | ({"max_windows": size.windows} if size.windows else {}),
        "divergence": {"positions": size.positions, "windows": COMPARED},
        "tasks": dict(size.tasks),
    }


def _gate(size: Usual) -> dict[str, Any]:
    """Items are drawn in five looks: a clearly good or bad artifact needs half of them or fewer.

    WikiText-2 has about 140 windows of 2048 tokens, in which damage in 2.2 % of them shows; of 1024
    there are 150 and more."""
    precisions = [("bf16",), EIGHT_BITS, FOUR_BITS]
    by_weights = {
        key: {
            weights: limit
            for group, limit in zip(precisions, limits, strict=True)
            for weights in group
        }
        for key, limits in size.limits.items()
    }
    rare = {} if size.windows else {"rare": 0.022}
    return {**rare, "sequential": True, **by_weights}


def serve(size: Usual, longest: int) -> dict[str, Any]:
    """`longest`: tokens of a request."""
    return {
        "max_model_len": longest,
        "max_num_seqs": 64,
        "max_num_batched_tokens": 2048,
        "kv_cache_gib": size.kv_cache_gib,
    }


def _benchmark(longest: int) -> dict[str, Any]:
    return {
        "concurrency": [1, 4, 8],
        "prompt_tokens": min(512, longest // 4),
        "output_tokens": min(128, longest // 16),
        "requests": 16,
        "repeats": 5,
    }


EXAMPLE = _example()
