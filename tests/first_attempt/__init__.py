"""The first attempt of a new user: own data sets, encoders and language models, four keys each."""
