"""Tables, figures and report, made from the CSV and JSON files of a results folder alone.

Nothing here imports a runner, the configuration or a model, so that reading results changes and needs nothing else.
"""
