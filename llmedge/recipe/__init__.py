"""The joining layer: whatever needs more than one stage."""
