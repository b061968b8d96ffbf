"""What can be done to a batch of training images on the device: frozen values with pure methods, key first."""
