"""Transfer methods: how a source model is turned into a model of the target task."""

METHODS = ("retrain_head", "fine_tune", "from_scratch", "cnaps")
