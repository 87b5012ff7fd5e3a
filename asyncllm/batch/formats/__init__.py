"""The file formats of batches, read and written."""
