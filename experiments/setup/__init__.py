"""From a config to what a run needs: models, data, plans, checks."""
