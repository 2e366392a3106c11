"""A trained model -> outputs: features, retrieval, generation."""

#: Names of dtypes that features are kept in.
DTYPES = ("float32", "bfloat16", "float16")
