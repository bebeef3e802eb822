"""Encoder-decoder models. Nothing here knows of files, vocabularies or HTTP."""
