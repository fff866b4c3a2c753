"""One file a DVC stage, by its name, with a function `run`; in the control environment."""
