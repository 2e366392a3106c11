"""Pictures -> pixel values."""

#: What happens to an image that is not square: nothing, padding, or a crop of its centre.
ASPECTS = ("as_is", "pad", "crop")
