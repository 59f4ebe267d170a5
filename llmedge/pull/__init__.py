"""From a name on the Hub to verified files in the standard cache, over a bad line."""
