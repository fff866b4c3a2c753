"""Sign-off: people decide about measured artifacts, and what they decided can be checked by
anybody.

policy.py says who may; log.py is what was decided, append-only; subject.py what is decided about;
standing.py, pure, follows from the three; commands.py is what `quantgate signoff` does."""
