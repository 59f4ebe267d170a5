"""GGUF files as data: headers, quant types, mixes and the memory a model needs. Never loads weights."""
