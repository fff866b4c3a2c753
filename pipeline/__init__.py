"""quantgate: one recipe in, quantized artifacts out, each measured on the engine that will serve it.

The data's way, one module or folder a step; a later one may import an earlier one, never the reverse:

    errors, paths   every error; where everything lies
    environments, dvc_command   one pinned set a tool family; `dvc` as it is started there
    machine, doctor   what this machine has
    progress      the last line of a working tool's log, on the terminal
    process       one job, or a session, in its own process and environment
    crash         an error that nobody foresaw: a sentence, and a log file
    reading       files that users bring, with limits
    parsing, recipe/, index  what was asked for, parsed strictly once; params.yaml
    records/      what is written and read between the steps
    tensors, layers   safetensors headers and finite checks, without torch; what precision each layer really got
    packing, rounding   how a vLLM artifact stores its layers; bits, groups and zero-points of what was made
    artifact      hash, verify, move into place
    seals         what a record says, and what it was made from, by SHA-256
    source        which files of a checkpoint are the model's, what cannot be started from
    checkpoint    pin and fetch: safetensors only, shards against their index; the folder of hashed files that tools get
    lengths       do the recipe's lengths fit the model
    architecture, tokens   does it hold what its architecture expects; what its tokenizer puts around a text
    prompts       prompt sets: texts or dialogues, through the chat template
    prompt_file   writes the prompt set of a local file
    calibration   prompts -> token ids; evaluation texts -> windows of token ids
    quantizers/   one file per tool; table is what is served where, refusal holds a recipe against it
    engines/      one file per engine; __init__ is the protocol and the table, scoring what is asked of them and read off
    stored        every matrix of an artifact, with the grid that it was rounded to
    fidelity      are the artifact's weights the source's
    loadcheck     is the artifact whole, and does its engine load it
    evaluation/   one pass over the texts: perplexity, divergence; lm-eval tasks over an engine's scores
    costs         a stage's worker, if memory has room for it, and what it took
    gate/         evaluations and limits -> verdict; pure
    estimate/     what each stage takes, before it runs: work over the speed of a machine
    serving       `vllm serve`, started and stopped
    benchmark/    one trace replayed on every engine; rounds, HTTP, statistics, the verdict on speed
    report/       records -> summary -> comparison, page, Markdown, model cards, metrics
    require       may these artifacts be shipped
    stages, judge, looks  what dvc.yaml calls, in the control environment; the second measures, the third decides and draws more
    climb/        ladders: rungs made and judged until one passes
    power         what the items can decide
    speed, shrinking, plan  how fast this machine is; what a recipe will take on it, and what would make that less
    start         `quantgate init`: a recipe for a model
    audit/        an artifact that was made elsewhere, through the same gate
    untracked/    stands before a tool's package that reports its use, in the workers' path
    worker, leashed   the other end: runs one job, a session or a server inside a tool environment
    reaper        what a killed session leaves running is killed
    revision, signing, signoff/   what git says of the project; signatures; who approved what, and what they measured again
    bundle/, registries/, publish, fetch, catalogue   an artifact with all that speaks for it, signed; where it is published
    deploy, prompting   a checked bundle, started as it was measured
    cli_parameters, cli    the `quantgate` command: what its table is made of; the table
"""

__version__ = "0.1.0"
