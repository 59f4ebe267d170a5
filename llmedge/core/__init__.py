"""What every package may use, knowing nothing of models: errors, units, settings, progress."""
