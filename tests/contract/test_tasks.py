"""What is said of lm-eval tasks before anything is measured: every one that lm-eval ships, and
local ones of all kinds of fault."""

from __future__ import annotations

import json
import os
import subprocess
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from pipeline.runtime import environments
from tests.conftest import ROOT

pytestmark = pytest.mark.engine
DATA = (
    "dataset_path: json\ndataset_kwargs: {data_files: {test:"
    " recipes/tiny/tasks/FILE.jsonl}}\ntest_split: test\n"
)
CHOICES = (
    DATA.replace("FILE", "facts")
    + 'output_type: multiple_choice\ndoc_to_text: "{{query}}"\ndoc_to_target:'
    ' "{{gold}}"\ndoc_to_choice: "{{choices}}"\n'
)
ANSWERS = (
    DATA.replace("FILE", "answers")
    + 'output_type: generate_until\ndoc_to_text: "{{query}}"\ndoc_to_target: "{{choices[gold]}}"\n'
    "metric_list: [{metric: exact_match, aggregation: mean, higher_is_better: true}]\n"
    "generation_kwargs: {until: [], do_sample: false, max_gen_toks: MOST}\n"
)
FILTERS = (
    "filter_list: [{name: strict, filter: [{function: regex, regex_pattern: x}, {function:"
    " take_first}]}, {name: all, filter: [{function: take_first}]}]\n"
)
ACC = "metric_list: [{metric: acc, aggregation: mean, higher_is_better: true}]\n"
LONG = ANSWERS.replace("MOST", "24")
# The task's YAML, what the recipe asks of it, and what is said: a number of documents, or words of
# the refusal.
CASES: dict[str, tuple[str, Any, int | list[str]]] = {
    "plain": (CHOICES + ACC, 10, 1200),
    "acc_norm": (CHOICES + ACC.replace("acc", "acc_norm"), 10, 1200),
    "two_filters": (LONG + FILTERS, {"items": 10, "filter": "all"}, 200),
    "first_filter": (LONG + FILTERS, 10, 200),
    "no_filter": (
        LONG + FILTERS,
        {"items": 10, "filter": "al"},
        [".filter: found 'al'", "strict, all", "Did you mean 'all'"],
    ),
    "no_metric": (
        CHOICES + ACC,
        {"items": 10, "metric": "acc_nor"},
        [".metric: found 'acc_nor', the task has acc"],
    ),
    "corpus": (
        LONG.replace("exact_match", "bleu"),
        10,
        ["cannot be gated: bleu is made of all answers together"],
    ),
    "sampled": (
        LONG.replace("do_sample: false", "do_sample: true, temperature: 0.7"),
        10,
        ["draws its answers at random"],
    ),
    "repeated": (LONG + "repeats: 4\n", 10, ["asks each item 4 times"]),
    "rolling": (
        CHOICES.replace("multiple_choice", "loglikelihood_rolling"),
        10,
        ["evaluate.perplexity.texts"],
    ),
    "long_answer": (
        ANSWERS.replace("MOST", "256"),
        10,
        ["up to 256 tokens (generation_kwargs.", "max_model_len of 256"],
    ),
    "longer": (
        ANSWERS.replace("MOST", "600"),
        10,
        ["up to 600 tokens", "leaves 0 for the prompt", "Set serve.max_model_len"],
    ),
    "nearly": (ANSWERS.replace("MOST", "254"), 10, ["leaves 1 for the prompt"]),
    "function": (
        CHOICES + ACC + "process_docs: !function own.work\n",
        10,
        ["!function own.work", "task_code: true"],
    ),
    "included": ("include: base\n" + ACC, 10, ["/base:1: !function own.work", "task_code: true"]),
    "script_metric": (
        LONG.replace("exact_match", "./own"),
        10,
        ["would be fetched as a script", "task_code: true"],
    ),
    "pickle": (
        CHOICES.replace("path: json", "path: pandas") + ACC,
        10,
        ["dataset_path pandas", "task_code: true"],
    ),
    "jinja": (
        CHOICES.replace("{{query}}", "{{ ''.__class__.__mro__[1].__subclasses__() }}") + ACC,
        10,
        ["the task's own error (SecurityError", "mend the task"],
    ),
    "field": (
        CHOICES.replace("{{query}}", "{{question}}") + ACC,
        10,
        ["the task's own error (UndefinedError", "'question'"],
    ),
    "unread": ("task: [\n", 10, ["no such task", "unread.yaml cannot be read: ParserError"]),
    "no_data": (CHOICES.replace("facts.jsonl", "none.jsonl") + ACC, 10, []),
}


def ask(jobs: dict[str, Any] | None, folder: Path) -> dict[str, Any]:
    (folder / "jobs.json").write_text(json.dumps(jobs))
    command = [str(environments.python("openvino")), "-m", "tests.contract.tasks_probe"]
    surroundings = {
        **os.environ,
        "HF_HUB_OFFLINE": "1",
        "HF_DATASETS_OFFLINE": "1",
        "HF_HOME": str(folder / "home"),
    }
    arguments = [str(folder / "jobs.json") if jobs else "EVERY", str(folder / "out.json")]
    subprocess.run([*command, *arguments], cwd=ROOT, check=True, env=surroundings)
    found: dict[str, Any] = json.loads((folder / "out.json").read_text())
    return found


def job(folder: Path, tasks: dict[str, Any], **more: Any) -> dict[str, Any]:
    evaluate = {
        "perplexity": {"texts": ["x"], "window": 8},
        "tasks": tasks,
        "task_path": str(folder),
        **more,
    }
    return {"evaluate": evaluate, "serve": {"max_model_len": 256}}


@pytest.fixture(scope="module")
def said(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    jobs = {}
    for key, (text, asked, _) in {**CASES, "allowed": CASES["function"]}.items():
        name, folder = key.replace("allowed", "function"), tmp_path_factory.mktemp(key)
        (folder / f"{name}.yaml").write_text(text if name == "unread" else f"task: {name}\n{text}")
        (folder / "base").write_text("process_docs: !function own.work\n" + CHOICES)
        code = (
            f"from pathlib import Path\nPath({str(folder)!r}, 'ran').touch()\ndef work(docs):"
            " return docs\n"
        )
        (folder / "own.py").write_text(code)
        jobs[key] = job(folder, {name: asked}, task_code=key == "allowed")
    group = tmp_path_factory.mktemp("group")
    (group / "one.yaml").write_text(f"task: one\n{CHOICES}{ACC}")
    (group / "both.yaml").write_text("group: both\ntask: [one]\n")
    jobs["twice"] = job(group, {"one": 5, "both": 5})
    return {"folders": {name: asked["evaluate"]["task_path"] for name, asked in jobs.items()},
            **ask(jobs, tmp_path_factory.mktemp("said"))}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_a_local_task_is_counted_or_refused_with_its_reason(
    said: dict[str, Any], name: str
) -> None:
    expected = CASES[name][2]
    if isinstance(expected, int):
        assert said[name] == {"items": {name: expected}, "absent": []}
    elif not expected:  # its data may be on the machine that measures
        assert said[name] == {"items": {}, "absent": [f"task {name} (json)"]}
    else:
        for words in ["RecipeError: evaluate.tasks", *expected]:
            assert words in said[name]


def test_code_of_a_local_task_runs_only_where_the_recipe_says_so(said: dict[str, Any]) -> None:
    ran = {name for name, folder in said["folders"].items() if (Path(folder) / "ran").exists()}
    assert ran == {"allowed"}
    assert said["allowed"] == {"items": {"function": 1200}, "absent": []}


def test_a_task_of_two_names_is_refused(said: dict[str, Any]) -> None:
    assert "one is a part of 'one' too: it would count twice" in said["twice"]


def test_every_task_of_lm_eval_is_usable_or_refused_with_a_reason(tmp_path: Path) -> None:
    found = ask(None, tmp_path)
    usable = Counter(said["metric"] for said in found.values() if "metric" in said)
    refused = [said["refused"] for said in found.values() if "refused" in said]
    print(f"{usable.total()} of {len(found)} tasks can be gated as they are: {dict(usable)}")
    assert len(found) > 13_000
    assert usable.total() + len(refused) == len(found)
    assert usable.total() > 0.85 * len(found)
    assert all(
        said.startswith("evaluate.tasks.") and said.endswith((".", "true")) for said in refused
    )
    expected = {
        "gsm8k": "exact_match",
        "gpqa_main_zeroshot": "acc",
        "leaderboard_musr_murder_mysteries": "acc_norm",
        "leaderboard_bbh_snarks": "acc_norm",
        "bbh_cot_fewshot_boolean_expressions": "exact_match",
    }
    assert {name: found[name] for name in expected} == {
        name: {"metric": metric} for name, metric in expected.items()
    }
    assert "perplexity" in found["wikitext"]["refused"]
