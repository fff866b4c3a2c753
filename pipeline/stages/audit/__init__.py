"""Audits: an artifact that quantgate did not make is put through a recipe's texts, tasks and
limits, like one that it made."""
