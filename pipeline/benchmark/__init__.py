"""Speed, memory and cost of the artifacts that passed: one trace, replayed on every engine, the
variants taking turns."""
