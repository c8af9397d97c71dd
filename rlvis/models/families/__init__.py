"""The options of model.family, one module each; its ENTRY is a subclass of `Policy` (docs/add_a_model.md)."""
