"""The integrations room: the evaluation suites of the field ask a run, lmms-eval and VLMEvalKit. Importing it costs nothing."""
