"""The options of advantage.transform, one module each; its ENTRY is a function of the form that
rlvis/advantage/transform.py describes.
"""
