"""What comes in: the checkpoint, its tensors and tokenizer, prompt sets, and the token ids made of
them."""
