"""What model families write between the lines: tool calls and reasoning. Text in, values out."""
