"""SHIM"""

import inspect

import jax


def takes_train(model):
    return "train" in inspect.signature(type(model).__call__).parameters


def apply(model, variables, *args, train, key=None):
    kw = {"train": train} if takes_train(model) else {}
    if not train:
        return model.apply(variables, *args, **kw), {}
    return model.apply(variables, *args, mutable=["batch_stats"], rngs=None if key is None else {"dropout": key}, **kw)


def init(model, key, images):
    from jaxcnn.models.base import Model

    if isinstance(model, Model):
        return model.init(key, images)
    kw = {"train": False} if takes_train(model) else {}
    import jax.numpy as jnp

    return dict(
        jax.jit(lambda k: model.init({"params": k, "dropout": k}, jnp.zeros(images.shape, images.dtype), **kw))(key)
    )


def build(factory, *, num_classes=None, dtype=None, axis_name=None, **options):
    p = inspect.signature(factory).parameters
    offered = {k: v for k, v in dict(num_classes=num_classes, dtype=dtype).items() if k in p and v is not None}
    return factory(**offered, **options)
