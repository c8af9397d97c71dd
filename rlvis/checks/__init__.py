"""What a configuration must satisfy before anything loads: pure functions from a configuration to findings.

config.py asks all of them; there is a module a section, and files.py looks at the disk. Types and names are
the schema's business; here stand the rules that tie keys together. Nothing here imports torch.
"""
