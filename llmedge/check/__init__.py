"""Whether a model runs on a device that is not here."""
