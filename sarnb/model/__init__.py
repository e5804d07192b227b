"""Models: the foundation, its tokenizer, the dual encoder that judges, and what a strategy trains of them."""
