"""Texts -> tokens, to pretrain a language model on."""
