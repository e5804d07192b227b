"""How the embedded foundation was made: recipe, linear start and pretraining of the autoencoder, tokenizer, card."""
