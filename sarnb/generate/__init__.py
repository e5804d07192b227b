"""Drawing images with a foundation or a trained model."""
