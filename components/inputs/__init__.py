"""Inputs: what a visitor gave, read and checked: texts, files of texts, pictures, sound."""
