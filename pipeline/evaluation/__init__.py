"""Measures artifacts, in a tool environment: verbs (what a worker is asked), text, tasks, lm."""
