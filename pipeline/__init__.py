"""quantgate: one recipe in, quantized artifacts out, each measured on the engine that will serve
it.

The data's way, one room a step; a later room may import an earlier one, never the reverse (`make
check` holds it):

    errors, paths, reading   every error; where everything lies; files that users bring, with limits
    capabilities  the engines that serve, a row each: what one can do is asked here
    recipe/       what was asked for, parsed strictly once: source, variant, ladder, quality,
                  long_context, speed, over base;
                  defaults: of the sections that it leaves out
                  parsing: a dictionary into a record, or one clear error
    records/      what is written and read between the steps: made, measured, judged, timed, signed,
                  spent, stored, spread, reported,
                  over base
                  artifact: hash, verify, move into place
    runtime/      where a job runs
                  environments, installer, dvc_command: one pinned set a tool family; packages into
                  it, by uv; `dvc` as it is started there
                  process, worker: one job, or a session, in its own process and environment; and
                  the other end
                  leash, reaper: what a killed session leaves running is killed
                  machine, speed: what this machine has, and how fast it is
                  costs, progress, crash: what a stage took; its log's last line; an error that
                  nobody foresaw
                  untracked/: stands before a tool's package that reports its use
    source/       what comes in
                  files, tensors: which files of a checkpoint are the model's; safetensors headers,
                  without torch
                  checkpoint: pin and fetch; the folder of hashed files that tools get
                  architecture, tokens, checking: what the model and the tokenizer must be
                  lengths: do the recipe's lengths fit the model
                  prompts, prompt_file: texts or dialogues; a prompt set of one's own file
                  encoding: them as token ids, through tokenizer and chat template
                  hub: why something of it cannot be had, in words of ours
                  calibration, coverage: rows of token ids for quantizers, windows for evaluation
    formats/      what an artifact is made of
                  packing, rounding, layers: how layers are stored, and in what precision
                  decoded, compressed, stored: every matrix, with the grid that it was rounded to
                  fidelity, deviation: are the artifact's weights the source's; how far a matrix is
                  factors: what may have moved between layers
    quantizers/   one file a tool: openvino (nncf_slices), neural/ (weights, static), gptqmodel
                  (awq_clip), autoround, compressed, rounding, unquantized; export is what they
                  share
                  table, refusal, families, listing: what is served where, a recipe held against it,
                  what was tried, to read
    engines/      one file an engine: reference (tree), dequantized, openvino (paged), vllm, and
                  fake for tests;
                  __init__ is the protocol and the table
                  scoring, host: log-likelihoods over any engine; what this processor cannot run
                  listed: which models a server says it has
                  server: one started and stopped; vllm_server, own_server, ovms_server: which, and
                  how
    serving/      the OpenAI API over an engine in a process of its own
                  app, guard, requests, answers, problems, metrics: HTTP, in FastAPI; listening:
                  uvicorn
                  backend, wire, worker: the engine's process; what the two ends say; the other end
                  schemas, keywords, references, patterns: which JSON schemas are kept
                  conversations, continuation, text: requests to tokens, tokens to text
    evaluation/   jobs: what a worker is asked
                  loadcheck, text: is the artifact whole; one pass over the texts: perplexity,
                  divergence
                  tasks, lm, scores, readable: lm-eval's tasks over an engine
                  catalogue, trust, weigh: before it runs: which tasks there are, what code they
                  hold, how much they are
    gate/         evaluations and limits -> verdict; pure: texts (text_windows),
                  items (pairing), long_context, over limits and statistics
                  looks, spending: a verdict as early as the data allow
    benchmark/    one trace replayed: loop, session, http, speed_statistics; performance is the
                  verdict on speed
    planning/     what a recipe will take and can decide, before it runs: plan, power, shrinking,
                  local
                  estimate/: workload and shape over rates -> what quantizing and measuring take
                  index, doctor: params.yaml; what is installed
                  start, usual_variants: `quantgate init`, a recipe for a model
    evidence/     what is on record, and what follows from it; nothing here measures
                  opened, candidate, settings: recipes as they stand; a variant and its place; what
                  a measurement depends on
                  keeping, seals: a record, sealed to what it was made from
                  provenance, revision: what a stage's work rests on; what git says of it
                  evaluations, current: what was measured, verdict_of it, and whether a stored one
                  still holds
                  inventory, clean: what lies in artifacts/, how large and how judged; what no
                  recipe names any more
    report/       records -> summary -> one content (document) -> page, Markdown, terminal, model
                  cards; metrics
    stages/       one file a DVC stage, by its name, with `run`, in the control environment: pin,
                  calibrate, reference, quantize, evaluate, gate, trace, benchmark, report,
                  require
                  measuring, drawing: the job and the record that the measuring stages share; which
                  items are measured next
                  climb/: a ladder's rungs (rung), measured (measure) and judged until one passes
                  audit/: an artifact that was made elsewhere, through the same gate: verb, taking,
                  claim, against
                  benchmark_pool: which engines stay open between turns; benchmark_http:
                  `benchmark --http`; chain: `quantgate run`, all stages in their
                  order
    release/      from an approved artifact to a served one
                  signing, signoff/: signatures; who approved what (commands, policy, log, subject,
                  case, standing), and what they measured again (drawing, again, remeasure)
                  bundle/: an artifact with all that speaks for it: layout, statements, bom,
                  serve_settings; assemble, prepare, check
                  registries/: folder (and S3: remote), hub, mlflow, oci (oci_client), over shared;
                  publish, fetch, catalogue use them
                  deploy: a checked bundle, served as it was measured
    store/        what stages made, by a hash of all that they depend on: taken in place of making
                  it again
                  graph, inputs: what DVC says of a stage; its key
                  objects, results: files by their hash; the record of what a stage made
                  kept: what a stage's command does with it
    spread/       `quantgate spread`: what the store lacks, on a Ray cluster
                  command, missing, orders: the loop; which stages are ready; a stage as a job
                  cluster, node, cores: Ray's side; one job on a node, on cores of its own
                  shown: a table, or lines
    gateway/      one OpenAI endpoint over the servers of approved artifacts
                  deploy_file, command: what is deployed; `quantgate gateway`
                  app, gateway, asked, clients: HTTP; a request's way; what is asked, and by whom
                  sharing, flight, cache, soft_redis: equal requests share an answer, on its way or
                  kept
                  answering, routing, line, escalation: tier after tier, by what was measured, and
                  who came first goes first
                  relay, stream, attempt: one try, and its answer on
                  tier, promise, breaker, silence, device_time: one server as it is now; what its
                  benchmark promises; does it hang?
                  watch, started, approved: does it run, serve what is approved, and is that still?
                  accounts, ledger, ledger_file, usage, metrics, log, traces: what was used, and
                  cost
                  files/: a deployment's files for elsewhere: compose, kubernetes, systemd, ...
    cli, cli_release, cli_parameters    the `quantgate` command: a table, and what it is made of
"""

__version__ = "0.1.0"
