"""Records to batches: images, depth encodings, chat template, reading order, collation, loading."""
