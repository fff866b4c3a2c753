"""quantgate: one recipe in, quantized artifacts out, each measured on the engine that will serve it.

The data's way, one module or folder a step; a later one may import an earlier one, never the reverse:

    errors, paths, environments, process   what every step stands on
    reading       files that users bring, with limits
    parsing, recipe/  what was asked for, parsed strictly once
    records/      what is written and read between the steps
    tensors       safetensors headers and finite checks, without torch
    artifact      hash, verify, move into place
    source        which files of a checkpoint are the model's, what cannot be started from
    checkpoint    pin and fetch: safetensors only, shards against their index; the folder of hashed files that tools get
    architecture, tokens   does it hold what its architecture expects; what its tokenizer puts around a text
    prompts       prompt sets: texts or dialogues, through the chat template
    calibration   prompts -> token ids; evaluation texts -> windows of token ids
    quantizers/   one file per tool; table is what is served where, refusal holds a recipe against it
    engines/      one file per engine; __init__ is the protocol and the table, scoring what is asked of them and read off
    stored        every matrix of an artifact, with the grid that it was rounded to
    fidelity      are the artifact's weights the source's
    loadcheck     is the artifact whole, and does its engine load it
    evaluation/   one pass over the texts: perplexity, divergence; lm-eval tasks over an engine's scores
    gate/         evaluations and limits -> verdict; pure
    serving       `vllm serve`, started and stopped
    benchmark/    one trace replayed on every engine; rounds, HTTP, statistics, the verdict on speed
    report/       records -> summary -> comparison, page, Markdown, model cards, metrics
    require       may these artifacts be shipped
    stages, judge, looks  what dvc.yaml calls, in the control environment
    untracked/    stands before a tool's package that reports its use, in the workers' path
    worker, leashed   the other end: runs one job, a session or a server inside a tool environment
    reaper        what a killed session leaves running is killed
    cli           the `quantgate` command
"""

__version__ = "0.1.0"
