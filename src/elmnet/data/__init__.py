"""Getting and reading bytes: corpora of text, recordings of spikes, downloads with hashes, synthetic stand-ins."""
