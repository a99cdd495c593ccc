"""Atomic writing of files, and folders on the Hugging Face hub."""
