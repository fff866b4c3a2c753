"""The card's code, a function an engine: how an artifact is run by the engine's own tools under the
settings that were measured."""

from __future__ import annotations

from typing import Any

PORT = 8000
PROMPT = "Once upon a time"


def openvino(folder: str, settings: dict[str, Any]) -> list[str]:
    return [block("python", openvino_code(folder, settings))]


def vllm(folder: str, settings: dict[str, Any]) -> list[str]:
    asking = (
        "Then, in another terminal (`/v1/chat/completions` puts a chat template in front, where the"
        " checkpoint has one):"
    )
    return [block("sh", vllm_command(folder, settings)), asking, block("sh", vllm_request(folder))]


def block(language: str, code: str) -> str:
    return f"```{language}\n{code}\n```"


def openvino_code(folder: str, settings: dict[str, Any]) -> str:
    """The pipeline that was measured; its precision is only said where the engine's own was not
    taken."""
    own = settings["dynamic_quantization_group_size"] != "0"
    precision = (
        ""
        if own
        else (
            ', INFERENCE_PRECISION_HINT="bf16", KV_CACHE_PRECISION="bf16",'
            " DYNAMIC_QUANTIZATION_GROUP_SIZE=0"
        )
    )
    names = ("cache_size", "enable_prefix_caching", "max_num_batched_tokens", "max_num_seqs")
    scheduler = "\n".join(f"scheduler.{name} = {settings[name]!r}" for name in names)
    return f"""import openvino_genai

scheduler = openvino_genai.SchedulerConfig()
{scheduler}
pipeline = openvino_genai.LLMPipeline(
    "{folder}", "{settings["device"].upper()}", scheduler_config=scheduler{precision}
)
print(pipeline.generate("{PROMPT}", max_new_tokens=32, do_sample=False))"""


def vllm_command(folder: str, settings: dict[str, Any]) -> str:
    """The server under the settings that were measured."""
    cpu = (
        f"VLLM_CPU_KVCACHE_SPACE={settings['kv_cache_gib']}"
        f" VLLM_CPU_INT4_W4A8={settings['int4_w4a8']} "
    )
    flags = [
        f"--dtype {settings['dtype'].removeprefix('torch.')}",
        "--generation-config vllm",
        f"--host 127.0.0.1 --port {PORT}",
    ]
    flags += [
        f"--{name.replace('_', '-')} {settings[name]}"
        for name in ("max_model_len", "max_num_seqs", "max_num_batched_tokens")
    ]
    flags += [
        (
            "--enable-prefix-caching"
            if settings["enable_prefix_caching"]
            else "--no-enable-prefix-caching"
        )
    ]
    flags += ["--enforce-eager"] if settings["enforce_eager"] else []
    return (
        f"{cpu if settings['device'] == 'cpu' else ''}vllm serve {folder} \\\n  "
        + " \\\n  ".join(flags)
    )


def vllm_request(model: str) -> str:
    body = f'{{"model": "{model}", "prompt": "{PROMPT}", "max_tokens": 32, "temperature": 0}}'
    return (
        f"curl --fail http://127.0.0.1:{PORT}/v1/completions -H 'Content-Type: application/json' -d"
        f" '{body}'"
    )
