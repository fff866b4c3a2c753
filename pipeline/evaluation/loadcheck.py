"""Before any evaluation: is the artifact whole, does its tokenizer equal the source's, does its
engine generate?"""

from __future__ import annotations

import json
from pathlib import Path

from pipeline.capabilities import ENGINES, IR, SAFETENSORS
from pipeline.engines import Engine, generate
from pipeline.errors import ArtifactError
from pipeline.formats import fidelity, layers
from pipeline.formats.fidelity import Claim
from pipeline.records import LoadCheck

GENERATED_TOKENS = 8
PROBES = [
    "Hello, world!",
    "What is 17 plus 25?\nAnswer:",
    "  two  spaces,\ttab\n\nblank line",
    "1234567 3.14 -0 50%",
    "na\u00efve caf\u00e9 \u2014 \u00ab\u00fcber\u00bb",
    "\u5317\u4eac \u0645\u0631\u062d\u0628\u0627 \u043f\u0440\u0438\u0432\u0435\u0442",
    "def f(x):\n    return x ** 2  # comment",
    "\U0001f642 \U0001f680",
    # where the patterns by which tokenizers split differ: contractions, slashes, line ends, case
    "It's he'll I'VE don't 'story' 'Tis ('re)",
    "See /etc/hosts.\n/usr/bin a//b\n\n\n  end;\r\n",
    "HelloWorld iPhone XMLHttpRequest snake_case kebab-case",
]
RULES = ("normalizer", "pre_tokenizer", "model")  # of tokenizer.json: what decides the ids
REQUIRED = {
    IR: (
        "openvino_model.xml",
        "openvino_model.bin",
        "openvino_tokenizer.xml",
        "openvino_detokenizer.xml",
    ),
    SAFETENSORS: (),
}


def check_files(
    artifact: Path, source: Path, engine: str, expected: dict[str, int], claim: Claim
) -> LoadCheck:
    """Files, tensors, tokenizer and weights. Raises ArtifactError.

    `expected` counts layers by stored type, as the manifest has it; `claim` is the precision that
    its weights are said to have."""
    required = ("config.json", "tokenizer.json", *REQUIRED[ENGINES[engine].artifact_format])
    missing = [name for name in required if not (artifact / name).is_file()]
    if missing:
        raise ArtifactError(f"{artifact}: incomplete: no {', '.join(missing)}. Quantize again.")
    weights = layers.inspect(artifact, engine)
    types = layers.stored_types(weights)
    layers.compare(weights, source, set(types))
    if types != expected:
        raise ArtifactError(
            f"{artifact}: stored weights by type are {types}, the manifest says {expected}."
        )
    strange = check_tokenizer(artifact, source, engine)
    compared = fidelity.check(artifact, source, engine, claim)
    return LoadCheck(
        files=sum(path.is_file() for path in artifact.rglob("*")),
        stored_types=types,
        relative_error=compared.relative_error,
        notes=[*strange, *compared.notes],
        tokenizer_probes=len(PROBES),
        generated=[],
    )


def check_tokenizer(artifact: Path, source: Path, engine: str) -> list[str]:
    """Notes. Raises ArtifactError where a text gets other ids than from the source's."""
    from transformers import AutoTokenizer

    ours, theirs = (
        AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
        for folder in (artifact, source)
    )
    if ours.chat_template != theirs.chat_template:
        raise ArtifactError(f"{artifact}: its chat template differs from the source checkpoint's.")
    numbers = ours.get_vocab()
    wrong = [
        token for token, number in theirs.get_vocab().items() if numbers.get(token) != number
    ]  # others may be added
    if wrong:
        raise ArtifactError(
            f"{artifact}: tokenizer.json gives the token {wrong[0]!r} the id"
            f" {numbers.get(wrong[0])}, the source's tokenizer {theirs.get_vocab()[wrong[0]]}; so"
            f" with {len(wrong)} tokens."
        )
    native = None
    if ENGINES[engine].artifact_format == IR:
        import openvino_genai

        native = openvino_genai.Tokenizer(str(artifact))
    for probe in PROBES:
        expected = theirs(probe)["input_ids"]
        answers = {"tokenizer.json": ours(probe)["input_ids"]}
        if native is not None:
            answers["openvino_tokenizer.xml"] = native.encode(probe).input_ids.data[0].tolist()
        for name, ids in answers.items():
            if list(ids) != list(expected):
                raise ArtifactError(
                    f"{artifact}: {name} gives {ids} for {probe!r}, the source's tokenizer"
                    f" {expected}."
                )
    rules = [json.loads(one.backend_tokenizer.to_str()) for one in (ours, theirs) if one.is_fast]
    differing = [rule for rule in RULES if len({json.dumps(one[rule]) for one in rules}) > 1]
    return [
        f"tokenizer.json: its {rule} differs from the source's, though {len(PROBES)} short texts"
        " get the same ids"
        for rule in differing
    ]


def check_generates(engine: Engine, source: Path) -> list[int]:
    """Eight greedy tokens from the engine. Raises ArtifactError if they do not come or are not in
    the vocabulary."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(source)
    ids = generate(
        engine, [tokenizer(PROBES[0])["input_ids"]], [GENERATED_TOKENS], stop_at_eos=False
    )[0]
    if len(ids) != GENERATED_TOKENS or not all(0 <= token < len(tokenizer) for token in ids):
        raise ArtifactError(
            f"the engine loaded the artifact but generated {ids}, expected {GENERATED_TOKENS} known"
            " tokens."
        )
    return ids
