"""Transfer methods: how a source model is turned into a model of the target task. A file a method."""
