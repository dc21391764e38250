"""Pruning VGG16-BN for CIFAR: methods, training, measurement, rows and the report made from them."""
