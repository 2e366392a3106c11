"""Records -> documents."""
