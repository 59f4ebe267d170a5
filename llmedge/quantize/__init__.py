"""From one GGUF file to its quantized variants."""
