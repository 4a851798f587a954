"""Drawing pictures with a trained model: in batches, into a folder, as a film."""
