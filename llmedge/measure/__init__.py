"""What is measured on text: corpora, perplexity, KL divergence."""
