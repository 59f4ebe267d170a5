"""From a checkpoint straight to a GGUF variant."""
