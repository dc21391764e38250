"""Pruning VGG16-BN for CIFAR: methods, training, measurement, results and the report made from them."""
