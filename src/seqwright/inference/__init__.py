"""Translation with a trained model: beam search and the translator around it."""
