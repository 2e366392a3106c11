"""Trackers: records and samples of a training -> a program that shows them."""

#: The module and class of each tracker.
TRACKERS = {
    "wandb": "experiments.trackers.weights_and_biases:WandbRun",
    "tensorboard": "experiments.trackers.tensor_board:TensorBoardRun",
}
#: The value of ``tracker`` for none of them.
NONE = "none"
