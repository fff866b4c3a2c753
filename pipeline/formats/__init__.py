"""What an artifact is made of: how each format stores its layers, read back and held against the
source."""
