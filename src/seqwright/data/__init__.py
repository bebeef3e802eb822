"""Training data: RecordIO-Protobuf files, vocabularies, the memory-mapped corpus and its batches."""
