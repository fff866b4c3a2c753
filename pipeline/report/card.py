"""A variant's model card for the Hugging Face hub, from the report's summary alone.

`render` gives README.md of a repository that holds the artifact's files. The commands in it are functions of the settings
that were measured, so that who follows them gets what was measured; tests/integration/test_card.py runs them.
"""

from __future__ import annotations

from typing import Any

from pipeline import engines
from pipeline.report import markdown_speed
from pipeline.report.found import audited, taken_from
from pipeline.report.markdown_parts import megabytes, table
from pipeline.report.provenance import experts, remarks
from pipeline.report.words import finite, number, setting

PORT = 8000
PROMPT = "Once upon a time"
# OpenVINO's repositories on the hub are found by this name; a checkpoint that vLLM serves is in transformers' own format.
LIBRARIES = {"openvino": "openvino", "vllm": "transformers"}
ENGINES = {"openvino": "OpenVINO GenAI", "vllm": "vLLM"}


def render(summary: dict[str, Any], variant: str) -> str:
    from huggingface_hub import ModelCard

    row = summary["variants"][variant]
    parts = [
        f"# {title(summary, variant)}",
        _what(summary, row),
        "## Verdict",
        *_verdict(row),
        "## Quality",
        *_quality(summary, variant),
        "## How it was made",
        *_made(summary, row),
        "## Speed",
        *_speed(variant, row),
        "## Serve it",
        *_serve(title(summary, variant), row),
        "## Limits",
        _limits(summary, row),
    ]
    return str(ModelCard(f"---\n{_metadata(summary, variant).to_yaml()}\n---\n\n" + "\n\n".join(parts) + "\n"))


def title(summary: dict[str, Any], variant: str) -> str:
    """The model's name, and the folder's in the commands."""
    return f"{summary['recipe']}-{variant}"


def _metadata(summary: dict[str, Any], variant: str) -> Any:
    from huggingface_hub import ModelCardData

    row, base = summary["variants"][variant], summary["checkpoint"]["repo"]
    quantized = row["quantizer"] is not None
    tags = [row["engine"], *([row["weights"], row["quantizer"]] if quantized else []), "quantgate"]
    tags += ["audited"] if taken_from(row) else []
    results = _results(row)
    return ModelCardData(
        base_model=base,
        base_model_relation="quantized" if base and quantized else None,
        library_name=LIBRARIES[row["engine"]],
        license=None if taken_from(row) else summary["checkpoint"]["license"],
        pipeline_tag="text-generation",
        tags=tags,
        model_name=title(summary, variant),
        eval_results=results or None,
    )


def _results(row: dict[str, Any]) -> list[Any]:
    """What was measured and is a number."""
    from huggingface_hub import EvalResult

    found = [(name, "accuracy", "accuracy", task["accuracy"]) for name, task in row["tasks"].items()]
    found += [(name, "perplexity", "perplexity per token", value) for name, value in row["perplexity"].items()]
    return [
        EvalResult(
            task_type="text-generation",
            dataset_type=name,
            dataset_name=name,
            metric_type=kind,
            metric_name=words,
            metric_value=value,
        )
        for name, kind, words, value in found
        if finite(value) is not None
    ]


def _what(summary: dict[str, Any], row: dict[str, Any]) -> str:
    made = "unquantized" if row["quantizer"] is None else f"in {row['weights']} ({row['quantizer']}, by {row['answered_by']})"
    checkpoint = summary["checkpoint"]
    return (f"**{audited(summary)}**\n\n" if audited(summary) else "") + (
        f"{_source(checkpoint)} ({checkpoint['architecture']}, {checkpoint['parameters']:,} parameters), {made}, for "
        f"{ENGINES[row['engine']]} on {row['manifest']['device'].upper()}. {megabytes(row['size_bytes'])} on disk. Every figure "
        "below was measured by quantgate on the engine that serves the model, against the source in float32."
    )


def _source(checkpoint: dict[str, Any]) -> str:
    if checkpoint["repo"] is None:
        return f"A local checkpoint, `{checkpoint['path']}`"
    return f"{checkpoint['repo']} at revision `{checkpoint['revision']}`"


def _verdict(row: dict[str, Any]) -> list[str]:
    verdict = row["verdict"]
    warning = [] if verdict["status"] == "PASS" else ["It did not pass: do not put it into service."]
    rows = [[check["name"], f"**{check['status']}**", _interval(check), _digits(check, "limit"), check["reason"]]
            for check in verdict["checks"]]  # fmt: skip
    head = ["check", "verdict", "measured (one-sided bounds)", "limit", "reason"]
    return [f"**{verdict['status']}**, by {len(rows)} checks that must all pass.", *warning, table(head, rows)]


def _interval(check: dict[str, Any]) -> str:
    if finite(check["value"]) is None:
        return "not measured"
    return f"{_digits(check, 'value')} ({_digits(check, 'low')} to {_digits(check, 'high')})"


def _digits(check: dict[str, Any], key: str) -> str:
    """Ratios near 1 need more digits to be told apart."""
    return number(check[key], 6 if check["name"].startswith("perplexity_ratio") else 4)


def _quality(summary: dict[str, Any], variant: str) -> list[str]:
    """Beside the source's own figures."""
    row, reference = summary["variants"][variant], summary["reference"]
    lines = [
        [f"perplexity of {text}", number(reference["perplexity"][text], 5), number(row["perplexity"].get(text), 5)]
        for text in reference["perplexity"]
    ]
    lines += [
        [f"accuracy on {name}", _accuracy(task), _accuracy(row["tasks"].get(name))] for name, task in reference["tasks"].items()
    ]
    return ["Accuracy with its standard error.", table(["", "source in float32", variant], lines)]


def _accuracy(task: dict[str, Any] | None) -> str:
    return "not measured" if task is None else f"{task['accuracy']:.4f} ± {task['standard_error']:.4f} ({task['n']} items)"


def _made(summary: dict[str, Any], row: dict[str, Any]) -> list[str]:
    manifest, calibration = row["manifest"], summary["calibration"]
    calibrated = row["quantizer"] is not None and not taken_from(row)
    scalars = {key: value for key, value in manifest["resolved"].items() if isinstance(value, (str, int, float, bool))}
    stored = ", ".join(f"{count} {kind}" for kind, count in sorted(manifest["stored_types"].items()))
    lines = [
        *([["taken from", taken_from(row)]] if taken_from(row) else []),
        ["made by", row["answered_by"]],
        ["settings", setting(scalars)],
        ["linear layers", f"{stored}; {len(manifest['layers']['skipped'])} skipped"],
        *([["calibration", f"{calibration['rows']} rows from {calibration['prompts']}, seed {calibration['seed']}"]] * calibrated),
        *([["ladder", _way(manifest["climb"])]] if manifest["climb"] else []),
        ["versions", _versions(manifest["versions"])],
        ["measured with", _versions(row["evaluation"]["versions"])],
    ]
    routed = [list(pair) for pair in experts(row)]
    coverage = [table(["experts", "calibration tokens that each is sent, in their order"], routed)] if routed else []
    return [table(["", ""], lines), *(f"- {note}" for note in remarks(row)), *coverage]


def _way(climb: dict[str, Any]) -> str:
    return "; then ".join(f"{step['rung']}: {step['status']}" for step in climb["steps"])


def _versions(found: dict[str, str]) -> str:
    return ", ".join(f"{package} {version}" for package, version in found.items()) or "none recorded"


def _speed(variant: str, row: dict[str, Any]) -> list[str]:
    benchmark = row["benchmark"]
    if not benchmark["measured"]:
        return [f"Not measured: {benchmark['reason']}."]
    one = {variant: {**benchmark, "profiles": {"deployed": benchmark["profiles"]["deployed"]}}}
    parts = [f"Measured on {markdown_speed.machine(benchmark)}. {row['performance']['status']}: {row['performance']['reason']}."]
    parts += [markdown_speed.levels(one, {variant: row["speedup"]}), markdown_speed.memory(one), markdown_speed.cost(one)]
    return [part for part in [*parts, markdown_speed.notices(one)] if part]


def _serve(folder: str, row: dict[str, Any]) -> list[str]:
    settings = row["evaluation"]["settings"].get("deployed")
    if settings is None:
        return ["Its engine did not run it, so there is nothing to follow."]
    intro = f"With these files in a folder `{folder}` and {_versions(_serving(row))}:"
    if row["engine"] == "openvino":
        return [intro, block("python", openvino_code(folder, settings))]
    asking = "Then, in another terminal (`/v1/chat/completions` puts a chat template in front, where the checkpoint has one):"
    return [intro, block("sh", vllm_command(folder, settings)), asking, block("sh", vllm_request(folder))]


def _serving(row: dict[str, Any]) -> dict[str, str]:
    """Of what was installed to measure it, the engine itself."""
    packages = engines.ENGINES[row["engine"]].packages
    return {name: version for name, version in row["evaluation"]["versions"].items() if name in packages}


def block(language: str, code: str) -> str:
    return f"```{language}\n{code}\n```"


def openvino_code(folder: str, settings: dict[str, Any]) -> str:
    """The pipeline that was measured; its precision is only said where the engine's own was not taken."""
    own = settings["dynamic_quantization_group_size"] != "0"
    precision = "" if own else ', INFERENCE_PRECISION_HINT="bf16", KV_CACHE_PRECISION="bf16", DYNAMIC_QUANTIZATION_GROUP_SIZE=0'
    names = ("cache_size", "enable_prefix_caching", "max_num_batched_tokens", "max_num_seqs")
    scheduler = "\n".join(f"scheduler.{name} = {settings[name]!r}" for name in names)
    return f"""import openvino_genai

scheduler = openvino_genai.SchedulerConfig()
{scheduler}
pipeline = openvino_genai.LLMPipeline("{folder}", "{settings["device"].upper()}", scheduler_config=scheduler{precision})
print(pipeline.generate("{PROMPT}", max_new_tokens=32, do_sample=False))"""


def vllm_command(folder: str, settings: dict[str, Any]) -> str:
    """The server under the settings that were measured."""
    cpu = f"VLLM_CPU_KVCACHE_SPACE={settings['kv_cache_gib']} VLLM_CPU_INT4_W4A8={settings['int4_w4a8']} "
    flags = [f"--dtype {settings['dtype'].removeprefix('torch.')}", "--generation-config vllm", f"--host 127.0.0.1 --port {PORT}"]
    flags += [
        f"--{name.replace('_', '-')} {settings[name]}" for name in ("max_model_len", "max_num_seqs", "max_num_batched_tokens")
    ]
    flags += ["--enable-prefix-caching" if settings["enable_prefix_caching"] else "--no-enable-prefix-caching"]
    flags += ["--enforce-eager"] if settings["enforce_eager"] else []
    return f"{cpu if settings['device'] == 'cpu' else ''}vllm serve {folder} \\\n  " + " \\\n  ".join(flags)


def vllm_request(model: str) -> str:
    body = f'{{"model": "{model}", "prompt": "{PROMPT}", "max_tokens": 32, "temperature": 0}}'
    return f"curl --fail http://127.0.0.1:{PORT}/v1/completions -H 'Content-Type: application/json' -d '{body}'"


def _limits(summary: dict[str, Any], row: dict[str, Any]) -> str:
    """What the figures do not say."""
    measured = [*summary["reference"]["tasks"], *summary["reference"]["perplexity"]]
    source = summary["checkpoint"]["repo"] or "the source checkpoint"
    licence = f"What the source may be used for, this may: its licence is that of {source}."
    if taken_from(row):
        licence = f"What it may be used for, its maker and the licence of {source} say."
    found = [
        f"The verdict is on {', '.join(measured)} and on nothing else: not on other languages, long contexts or safety.",
        "The speeds are of the machine named above. On another one, measure again.",
        licence,
    ]
    if row["manifest"]["layers"]["skipped"]:
        found.append(f"Layers left unquantized: {', '.join(row['manifest']['layers']['skipped'])}.")
    return "\n".join(f"- {line}" for line in found)
