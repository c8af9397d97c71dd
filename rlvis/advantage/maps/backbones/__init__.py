"""The options of advantage.map.backbone, one module each; its ENTRY is a class of the form that
rlvis/advantage/maps/backbone.py describes.
"""
