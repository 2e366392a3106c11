"""The command line: from overrides to a typed config, help, and errors with their keys."""
