"""Training of language models: judge, writer, post encoder, sentence embedder, classifier."""
