"""Perplexity by the GPTQ paper's protocol (arXiv 2210.17323, section 4): the windows made at calibration, scored whole.

PPL = exp(sum of negative log-likelihoods / scored tokens); the first token of a window has no prediction.
"""

from __future__ import annotations

from tqdm import tqdm

from pipeline.engines import Engine
from pipeline.records import Perplexity, Texts, Window

CHUNK = 32  # windows handed over at once: enough to keep an engine's batch full, few enough to show progress


def measure(engine: Engine, texts: Texts) -> list[Perplexity]:
    """One record per text, one Window per row of ids, in order. Non-finite scores are kept: the gate fails them."""
    results = []
    for text in texts.texts:
        windows: list[Window] = []
        with tqdm(total=len(text.windows), desc=f"perplexity {text.name}", unit="window", mininterval=2) as bar:
            for start in range(0, len(text.windows), CHUNK):
                scored = engine.score(text.windows[start : start + CHUNK])
                windows += [Window(nll_nats=-sum(s.logprobs), tokens=len(s.logprobs)) for s in scored]
                bar.update(len(scored))
        results.append(Perplexity(text=text.name, text_sha256=text.sha256, windows=windows))
    return results
