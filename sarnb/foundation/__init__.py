"""How the embedded foundation was made: recipe, stages, linear start, tokenizer, card."""
