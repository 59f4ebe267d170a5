"""GGUF files as data: headers, quant types, mixes, needed memory. Never loads weights."""
