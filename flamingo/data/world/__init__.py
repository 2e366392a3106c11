"""The embedded world: a benchmark of in-context learning that the code makes itself.

``scenes`` says what there is to see, ``drawing`` draws it, ``language`` puts it into words (and reads
words back), ``documents`` makes interleaved documents of both. Everything is a pure function of a seed.
"""
