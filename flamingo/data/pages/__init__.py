"""Web pages: texts and images -> windows."""
