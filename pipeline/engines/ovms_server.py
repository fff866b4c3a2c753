"""OpenVINO Model Server, where it is installed (its publisher has tarballs and images, no package
index has it): the OpenAI API is below /v3.

https://docs.openvino.ai/2026/model-server/ovms_docs_llm_reference.html for the graph,
ovms_docs_parameters.html for the command."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from pipeline import engines
from pipeline.engines import openvino, server
from pipeline.engines.paged import DEVICE
from pipeline.engines.server import Served
from pipeline.errors import SetupError
from pipeline.recipe import Serve

KEY = "API_KEY"
PROGRAM = "ovms"
GRAPH = """input_stream: "HTTP_REQUEST_PAYLOAD:input"
output_stream: "HTTP_RESPONSE_PAYLOAD:output"
node: {
  name: "LLMExecutor"
  calculator: "HttpLLMCalculator"
  input_stream: "LOOPBACK:loopback"
  input_stream: "HTTP_REQUEST_PAYLOAD:input"
  input_side_packet: "LLM_NODE_RESOURCES:llm"
  output_stream: "LOOPBACK:loopback"
  output_stream: "HTTP_RESPONSE_PAYLOAD:output"
  input_stream_info: { tag_index: "LOOPBACK:0", back_edge: true }
  node_options: {
    [type.googleapis.com/mediapipe.LLMCalculatorOptions]: {
      %s
    }
  }
  input_stream_handler {
    input_stream_handler: "SyncSetInputStreamHandler",
    options {
      [mediapipe.SyncSetInputStreamHandlerOptions.ext] { sync_set { tag_index: "LOOPBACK:0" } }
    }
  }
}
"""


def command(what: Served, host: str, port: int, folder: Path) -> list[str]:
    """Writes graph and configuration into the folder, since nothing may be added to the artifact's.
    Raises SetupError where it is not installed."""
    program = shutil.which(PROGRAM)
    if program is None:
        raise SetupError(
            f"{PROGRAM}: not found on the PATH. Install OpenVINO Model Server, or leave --server"
            " out, for quantgate's own."
        )
    graph = folder / "graph.pbtxt"
    graph.write_text(GRAPH % "\n      ".join(_options(what)))
    configuration = folder / "config.json"
    served = {"name": what.name, "base_path": str(folder), "graph_path": str(graph)}
    configuration.write_text(
        json.dumps({"model_config_list": [], "mediapipe_config_list": [served]})
    )
    where = ["--rest_bind_address", host, "--rest_port", str(port)]
    leash = server.leash(engines.cores(what.serve))
    return [*leash, program, *where, "--config_path", str(configuration)]


def _options(what: Served) -> list[str]:
    """The scheduler's and the plug-in's settings of the engine in process; JSON's strings are those
    of a protobuf text too."""
    scheduler = openvino.scheduler_settings(what.serve)
    given = {
        "models_path": str(what.artifact.resolve()),
        "device": DEVICE,
        "plugin_config": json.dumps(openvino.properties(what.serve)),
        **scheduler,
    }
    return [f"{name}: {json.dumps(value)}" for name, value in given.items()]


def environment(serve: Serve) -> dict[str, str]:
    """Everything is in the graph."""
    return {}


def settings(serve: Serve) -> dict[str, Any]:
    """For the record of what was measured over it."""
    return {"device": DEVICE.lower(), **openvino.scheduler_settings(serve)}
