"""Training data: folders of audio, checked and prepared, and the examples that are drawn and augmented from them."""
