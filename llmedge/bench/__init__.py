"""How fast a model runs here, and in how much memory."""
