"""The shapes world: prompts, pictures and clips by closed forms, and a checker that knows the truth.

language says what a prompt asks for, draw renders it, defects spoils it on purpose, checker and motion read
pictures and clips back. Lengths are pixels of a 32-pixel side; everything scales with the side.
"""
