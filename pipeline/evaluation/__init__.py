"""Measures artifacts, in a tool environment: jobs (what a worker is asked), text, tasks, lm."""
