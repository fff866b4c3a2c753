"""`python autoawq_cpu.py SOURCE SAMPLES.json OUT`, in the environment of autoawq.txt: real output
of autoawq 0.2.9 on a CPU.

autoawq is not changed in any way. The backup of its scale search (awq/quantize/quantizer.py,
`v.cpu()`) is no copy on a CPU, so that the weights it scales are spoilt while it exits 0."""

from __future__ import annotations

import json
import os
import shutil
import sys
import tempfile
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"


def main(source: Path, samples: Path, out: Path, group_size: int) -> None:
    import torch
    from awq import AutoAWQForCausalLM
    from transformers import AutoTokenizer

    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as folder:
        in_old_style(source, Path(folder))
        tokenizer = AutoTokenizer.from_pretrained(folder)
        rows = json.loads(samples.read_text())["ids"]
        texts = [tokenizer.decode(ids) for ids in rows]
        model = AutoAWQForCausalLM.from_pretrained(folder, device_map="cpu")
        config = {"zero_point": True, "q_group_size": group_size, "w_bit": 4, "version": "GEMM"}
        longest = 2 * len(
            rows[0]
        )  # autoawq leaves out what is longer, and decoded text may become more tokens
        model.quantize(
            tokenizer,
            quant_config=config,
            calib_data=texts,
            max_calib_samples=32,
            max_calib_seq_len=longest,
        )
        model.save_quantized(str(out))
    for pattern in ("tokenizer*", "*.jinja", "generation_config.json"):
        for path in source.glob(pattern):
            shutil.copyfile(path, out / path.name)


def in_old_style(source: Path, target: Path) -> None:
    """A copy of a checkpoint of transformers 5 that transformers 4.51 reads."""
    for path in source.iterdir():
        shutil.copyfile(path, target / path.name)
    config = json.loads((source / "config.json").read_text())
    config["rope_theta"] = config.pop("rope_parameters")["rope_theta"]
    config["torch_dtype"] = config.pop("dtype")
    (target / "config.json").write_text(json.dumps(config))
    tokenizer = json.loads((source / "tokenizer_config.json").read_text())
    tokenizer["tokenizer_class"] = "PreTrainedTokenizerFast"
    (target / "tokenizer_config.json").write_text(json.dumps(tokenizer))


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:-1]), int(sys.argv[-1]))
