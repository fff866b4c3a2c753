"""What several tools share: the source's own companion files, and the export to OpenVINO with its
tokenizer."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import Any

# What travels with any artifact, as the source has it: tools rewrite these files and change
# defaults in them.
COMPANIONS = (
    "tokenizer*",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "*.jinja",
    "generation_config.json",
)


def copy_companions(source: Path, out: Path) -> None:
    """Replaces tokenizer, chat template and generation settings in `out` by the source's own
    files."""
    for path in {path for pattern in COMPANIONS for path in source.glob(pattern)}:
        shutil.copyfile(path, out / path.name)


def save_unused_settings() -> None:
    """Lets a model be saved whose generation settings hold a temperature without do_sample, as many
    publishers' files do.

    transformers loads such a file and refuses to write it; what is written is replaced by the
    source's own."""
    from transformers import GenerationConfig

    strictly = GenerationConfig.validate
    GenerationConfig.validate = lambda self, strict=False, **options: strictly(self, **options)


def export(source: Path, scratch: Path) -> Any:
    """The source as an uncompressed OpenVINO model; load_in_8bit=False stops the silent INT8 above
    1e9.

    optimum-intel keeps a whole copy in a temporary folder as long as the process lives, and for
    ever where that is killed: `scratch` is where it may lie, a folder that the stage clears."""
    from optimum.intel import OVModelForCausalLM

    print(f"openvino: exporting {source}", flush=True)
    tempfile.tempdir, usual = str(scratch), tempfile.tempdir
    try:
        return OVModelForCausalLM.from_pretrained(
            str(source),
            export=True,
            load_in_8bit=False,
            compile=False,
            trust_remote_code=False,
            local_files_only=True,
        )
    finally:
        tempfile.tempdir = usual


def exported(folder: Path) -> Any:
    """The unquantized artifact of the same recipe, as it was exported: once for all variants."""
    from optimum.intel import OVModelForCausalLM

    return OVModelForCausalLM.from_pretrained(
        str(folder), compile=False, trust_remote_code=False, local_files_only=True
    )


def add_tokenizer(source: Path, out: Path) -> None:
    """OpenVINO tokenizer and detokenizer, which the export of a model alone does not make."""
    import openvino
    from openvino_tokenizers import convert_tokenizer
    from transformers import AutoTokenizer

    copy_companions(source, out)
    tokenizer, detokenizer = convert_tokenizer(
        AutoTokenizer.from_pretrained(source), with_detokenizer=True
    )
    openvino.save_model(tokenizer, out / "openvino_tokenizer.xml")
    openvino.save_model(detokenizer, out / "openvino_detokenizer.xml")
