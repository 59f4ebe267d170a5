"""The command line: parse, call one stage, show what it returns."""
