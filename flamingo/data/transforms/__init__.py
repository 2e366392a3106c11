"""Pictures -> pixel values."""

#: The treatment of an image that is not square: none, padding, or a crop of its centre.
ASPECTS = ("as_is", "pad", "crop")
