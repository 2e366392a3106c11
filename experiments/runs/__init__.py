"""What each command does with its config."""
