"""Records: images with their captions, questions or dialogues."""
