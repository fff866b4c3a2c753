"""Runs inside the openvino environment: a request that has begun, one that has not, and one whose
schema GenAI fails at, all in one step; how each ended, and why.

python -m tests.contract.lost_probe ARTIFACT OUT.json
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from pipeline import engines
from pipeline.engines import Sampling
from pipeline.serving.conversations import Conversations
from pipeline.serving.text import Tokenizer
from pipeline.serving.wire import Answer, Ask
from tests.contract.probe import SERVE

PLAIN = Sampling(20, ignore_eos=True)
FAULTY = Sampling(20, json_schema=json.dumps({"$ref": "#/nowhere"}))


def main(artifact: Path) -> list[tuple[str | None, str | None]]:
    ends: dict[int, Answer] = {}
    with engines.open_served("openvino", artifact, SERVE) as engine:
        running = Conversations(engine, Tokenizer(artifact), artifact, SERVE.max_model_len)
        running.begin(Ask(key=0, prompt=[5] * 8, sampling=PLAIN, stop=[]))
        while not running.step():
            pass
        running.begin(Ask(key=1, prompt=[6] * 8, sampling=PLAIN, stop=[]))
        running.begin(Ask(key=2, prompt=[7] * 8, sampling=FAULTY, stop=[]))
        while running.running:
            ends |= {answer.key: answer for answer in running.step() if answer.ends}
    return [(end.finish, end.refusal and end.refusal.message) for _, end in sorted(ends.items())]


if __name__ == "__main__":
    Path(sys.argv[2]).write_text(json.dumps(main(Path(sys.argv[1]))))
