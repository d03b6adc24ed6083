"""Adapters for other frameworks, each thin, in a module that imports its framework: langchain, llamaindex, haystack,
sklearn. What the stores of documents share is in documents.py."""
