"""The run folder, outputs/NAME/DATE_TIME: what stands in it beside checkpoints, and who may write it.

folder     made, or refused; config.yaml       lock          who writes it now
manifest   git, versions, command, hardware    archive       records of steps, for single stages and dumps
step_files what a step leaves beside metrics   exit_state    how the run ended
redact     what must not be told: secrets
"""
