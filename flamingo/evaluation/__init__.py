"""Model, task, shots -> predictions -> scores."""
