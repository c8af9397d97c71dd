"""Where prompts come from: files, the hub or the shapes world, and which of them a training step takes.

In: a DataConfig. Out: a PromptSet (prompts), and for each step a PromptBatch (sampler) as a pure function of
seed and step. The shapes world (world) also draws its training images and knows the truth about every sample.
"""
