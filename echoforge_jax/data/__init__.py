"""Raw formats to verified clips to ArrayRecord to batches."""
