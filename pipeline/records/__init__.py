"""What the steps write and read: one frozen record per file, JSON, units in the names."""

from pipeline.records.base import Record, read, read_text, write_text
from pipeline.records.judged import Benchmark, Check, Level, Spread, Status, Tails, TaskComparison, Verdict
from pipeline.records.made import Checkpoint, File, Layers, Manifest, Samples, Text, Texts
from pipeline.records.measured import (
    DivergedWindow,
    Divergence,
    Evaluation,
    Extension,
    Item,
    LoadCheck,
    Perplexity,
    Task,
    View,
    Window,
    WorstToken,
)

__all__ = [
    "Benchmark",
    "Check",
    "Checkpoint",
    "DivergedWindow",
    "Divergence",
    "Evaluation",
    "Extension",
    "File",
    "Item",
    "Layers",
    "Level",
    "LoadCheck",
    "Manifest",
    "Perplexity",
    "Record",
    "Samples",
    "Spread",
    "Status",
    "Tails",
    "Task",
    "TaskComparison",
    "Text",
    "Texts",
    "Verdict",
    "View",
    "Window",
    "WorstToken",
    "read",
    "read_text",
    "write_text",
]
