"""One file per layout of captioned images on disk."""
