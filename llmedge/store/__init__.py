"""Names, files and what is known about them: references, sidecars, records."""
