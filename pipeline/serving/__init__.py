"""An engine behind the OpenAI API: HTTP here, the engine and its tokenizer in a process of their
own.

OpenVINO GenAI holds Python's lock while it runs a step, so that nothing would be answered beside
it. `python -m pipeline.serving JOB` (`__main__`) is started by pipeline/engines/own_server."""
