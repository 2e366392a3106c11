"""The synthetic benchmark of in-context learning: scenes that the code draws, with captions from a grammar.

``scenes`` defines what can be shown, ``drawing`` draws it, ``grammar`` describes it in words and parses them,
``documents`` makes interleaved documents of both. Everything is a pure function of a seed.
"""
