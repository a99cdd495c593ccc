"""Files that are written whole or not at all, and folders on the Hugging Face hub."""
