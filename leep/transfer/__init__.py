"""Transfer methods: how a source model is turned into a model of the target task."""

METHODS = ("retrain_head", "fine_tune", "from_scratch", "nearest_mean", "cnaps")
UNTRAINED = ("nearest_mean", "cnaps")  # no gradient steps on the task
